//! Problem details of refused calls (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of [`ProblemDetails`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a call is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProblemDetails {
    /// The kind of problem, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This very problem.
    pub detail: String,
    /// Each of several problems: those of a configuration that is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemAt>,
}

/// A problem of a configuration, and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ProblemAt {
    /// The file's name in the folder.
    pub file: String,
    /// The line, from 1 on; 0 if the problem is the whole file's.
    pub line: u32,
    /// The column, from 1 on; 0 if the problem is the whole file's.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: String,
}
