//! `POST /v1/apply`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ProblemAt;

/// Which configuration to switch to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApplyRequest {
    /// The folder to follow from now on: an absolute path on the host where taskgate runs. Left out: the one that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// A configuration that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// Its folder.
    pub config: String,
    /// The generation in force.
    pub generation: u64,
    /// How many tasks are to be gated on this host.
    pub tasks: usize,
    /// How many of them are gated. The rest waits for a link, or is in `not-gated`.
    pub gated: usize,
    /// Tasks that could not be gated because of an error, which is tried again.
    pub not_gated: Vec<NotGated>,
    /// What deserves a look in the configuration.
    pub warnings: Vec<ProblemAt>,
}

/// A task, or the uplink, that is not gated because of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NotGated {
    /// The task; absent for the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Why not, and whether its link passes nothing or everything meanwhile.
    pub message: String,
}
