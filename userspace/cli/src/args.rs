//! The command line: what can be asked, and with which words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskgate_analysis::explain::Asked;
use taskgate_model::{Family, protocol_number};
use tracing::level_filters::LevelFilter;

/// A security group in front of every task on this host.
///
/// Exit status: 0 ok, 1 failure, 2 usage, 3 invalid configuration, 5 not found, 7 the answer is no.
#[derive(Clone, Debug, Parser)]
#[command(name = "taskgate", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The folder with the configuration: AWS CLI output and native files
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TASKGATE_CONFIG",
        default_value = "/etc/taskgate"
    )]
    pub config: PathBuf,
    /// Which taskgate of this host is meant, where there are several
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "TASKGATE_INSTANCE",
        default_value = "default",
        value_parser = instance
    )]
    pub instance: String,
    /// How much is told on standard error
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "TASKGATE_LOG_LEVEL",
        default_value = "info",
        ignore_case = true
    )]
    pub log_level: LogLevel,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Gate the tasks' links and stream flow records to standard output, until it is ended
    Run(Run),
    /// Read, validate, compile and lint the configuration; needs no root and touches nothing
    Check(Check),
    /// Tell what the gates on the way from one task to another say of a packet, and which rule decides
    Explain(Explain),
}

/// `taskgate run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The flow logs' aggregation interval in seconds, instead of the configured one
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    pub interval: Option<u32>,
    /// Write at the end, to standard error, what was counted by task and reason; SIGUSR1 writes it at any time
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub counters: Option<Output>,
    /// The form of the log on standard error: lines for people, or a JSON object in each, with `task`, `link` and
    /// `generation` where a message is about one
    #[arg(
        long,
        value_name = "FORM",
        env = "TASKGATE_LOG_FORMAT",
        default_value = "text",
        ignore_case = true
    )]
    pub log_format: LogFormat,
}

/// `taskgate check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Also look on this host for the links that the configuration names; exit with status 5 if one is not there, with 1
    /// if no gate works on one
    #[arg(long)]
    pub host: bool,
    /// The form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// `taskgate explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Who sends: a task's name, an ENI's id, or an address
    #[arg(long, value_name = "WHO")]
    pub from: String,
    /// To whom, likewise
    #[arg(long, value_name = "WHO")]
    pub to: String,
    /// tcp, udp, icmp, icmpv6, or another protocol's IANA name or number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub protocol: u8,
    /// TCP, UDP: the destination port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// TCP, UDP: the source port [default: 49152]
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// ICMP: the message's type [default: echo request]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<u8>,
    /// ICMP: the message's code [default: 0]
    #[arg(long, value_name = "CODE")]
    pub code: Option<u8>,
    /// Use IPv4 addresses [default where both have one]
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Use IPv6 addresses
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// The form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Output,
    /// Exit with status 7 if a gate denies it, or may deny it for all that the files say
    #[arg(long)]
    pub fail_on_deny: bool,
}

impl Explain {
    /// The question.
    pub(crate) fn asked(&self) -> Asked {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        };
        Asked {
            from: self.from.clone(),
            to: self.to.clone(),
            protocol: self.protocol,
            port: self.port,
            source_port: self.source_port,
            kind: self.kind,
            code: self.code,
            family,
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object in each line.
    Json,
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// An instance's name becomes the name of a folder and of a socket.
fn instance(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(fits) {
        return Err(String::from(
            "write 1 to 64 letters, digits, `-`, `_` or `.`, the first one no `.`",
        ));
    }
    Ok(text.to_owned())
}

fn protocol(text: &str) -> Result<u8, String> {
    if matches!(text.to_ascii_lowercase().as_str(), "all" | "-1") {
        return Err(String::from("a packet has one protocol; name it"));
    }
    protocol_number(text).or_else(|| text.parse().ok()).ok_or_else(|| {
        String::from("write a protocol's name, such as `tcp`, `icmp` or `esp`, or a number from 0 to 255")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
