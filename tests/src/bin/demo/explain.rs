//! The deciding rule, by `taskgate explain`: the same code that runs in the kernel.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    attempts::{Way, What},
    hosts::Host,
};

/// `taskgate explain` with the example's configuration.
pub(super) struct Explainer {
    /// The `taskgate` binary.
    pub(super) binary: PathBuf,
    /// The folder with the configuration.
    pub(super) config: PathBuf,
}

#[derive(Deserialize)]
struct Answer {
    gates: Vec<Gate>,
}

/// The verdict of a gate.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Gate {
    /// The ENI's id.
    pub(super) eni: String,
    pub(super) task: String,
    /// `egress` or `ingress`.
    pub(super) direction: String,
    /// `ACCEPT` or `REJECT`.
    pub(super) verdict: String,
    /// `rule`, or the reason for a denial.
    pub(super) reason: String,
    /// The name of the group whose rule allows it.
    pub(super) group_name: Option<String>,
    /// The rule that allows it.
    pub(super) rule: Option<String>,
    /// The rule that came closest.
    pub(super) nearest: Option<Nearest>,
}

/// A rule that nearly allowed the packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Nearest {
    pub(super) rule: String,
    /// The reason why it did not match.
    pub(super) message: String,
}

impl Gate {
    /// Whether the gate lets the packet through.
    pub(super) fn accepts(&self) -> bool {
        self.verdict == "ACCEPT"
    }
}

impl Explainer {
    /// The gates on a way, in the order in which a packet meets them.
    pub(super) fn gates(&self, what: What, way: &Way<'_>) -> Result<Vec<Gate>> {
        let mut command = Command::new(&self.binary);
        command.args(["explain", "-o", "json", "--config"]).arg(&self.config);
        let name = |(host, address): (&Host, std::net::IpAddr)| {
            host.eni
                .as_ref()
                .map_or_else(|| address.to_string(), |_| host.name.clone())
        };
        command.args(["--from", &name(way.from()), "--to", &name(way.to())]);
        command.arg(if way.is_v6() { "-6" } else { "-4" });
        match what {
            What::Tcp(port) => command.args(["--protocol", "tcp", "--port", &port.to_string()]),
            What::Ping if way.is_v6() => command.args(["--protocol", "icmpv6"]),
            What::Ping => command.args(["--protocol", "icmp"]),
        };
        let output = command.output().context("cannot run `taskgate explain`")?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: Answer =
            serde_json::from_slice(&output.stdout).with_context(|| format!("cannot read what {command:?} prints"))?;
        Ok(answer.gates)
    }
}
