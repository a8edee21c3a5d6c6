//! The command line: what can be asked, and with which words.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use taskgate_analysis::explain::Asked;
use taskgate_model::{Family, protocol_number};
use tracing::level_filters::LevelFilter;

use super::flows::args::FlowsArgs;

/// A security group in front of every task on this host.
///
/// Exit status: 0 ok, 1 failure, 2 usage, 3 invalid configuration, 4 taskgate does not run, 5 not found, 6 unhealthy, 7 the answer is no.
#[derive(Clone, Debug, Parser)]
#[command(name = "taskgate", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The folder with the configuration: AWS CLI output and native files [default: /etc/taskgate]
    #[arg(long, global = true, value_name = "DIR", env = "TASKGATE_CONFIG")]
    pub config: Option<PathBuf>,
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
    /// How much is logged to standard error
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

impl Global {
    /// The folder with the configuration.
    pub(crate) fn folder(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new("/etc/taskgate"))
    }
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Gate the tasks' links and stream flow records to standard output, until it is ended; the gates stand on
    Run(Run),
    /// Tell what the kernel holds: tasks, gates, generation, use of tables, drift, losses; exit with status 6 if something is off
    Status(Form),
    /// Switch a running taskgate to the configuration in the folder that it follows; with `--config` that folder is followed from
    /// now on
    Apply(Apply),
    /// Tell what the configuration in a folder would change, and which live connections no rule of it would allow
    Diff(Diff),
    /// Show tracked connections: task, peer, state, age, traffic, and the rule that let them in
    Connections(Connections),
    /// Show stored flow records: of files and folders, by task, address, port, group, verdict, rule and time
    Flows(Box<FlowsArgs>),
    /// The tasks of a running taskgate
    #[command(subcommand)]
    Task(TaskCommand),
    /// Have a running taskgate read the folder that it follows anew, as SIGHUP does
    Reload(Form),
    /// Take the gates off that earlier runs left standing, and what they made away; not while one runs
    Cleanup(Cleanup),
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
    /// Read the configuration again half a second after the last change of a file in its folder, as at SIGHUP
    #[arg(long)]
    pub watch: bool,
    /// Where gates of an earlier run stand whose tracked connections cannot be taken over: give these up. Connections that no
    /// rule allows by itself are cut
    #[arg(long)]
    pub drop_connections: bool,
    /// Write the counters by task and reason to standard error at the end; SIGUSR1 writes them at any time
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

/// `taskgate apply`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Apply {
    /// Change nothing, and tell what would change, as `taskgate diff` does
    #[arg(long)]
    pub dry_run: bool,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// `taskgate diff`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Diff {
    /// Exit with status 7 if anything would change
    #[arg(long)]
    pub fail_on_change: bool,
    /// How the answer is written.
    #[command(flatten)]
    pub form: Form,
}

/// `taskgate connections`. All that is said has to fit.
#[derive(Clone, Debug, Args)]
pub struct Connections {
    /// Only those of a task, by its name or its ENI's id
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// Only those with a peer: an address, or a CIDR
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// Only TCP and UDP with this port at either end
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, icmpv6, another IANA name, or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Only those that a rule let in, by its id; a group's name or id stands for all its rules, `exempt` for what is never
    /// filtered
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// Only those that were opened from outside (`ingress`), or by the task (`egress`)
    #[arg(long, value_name = "DIRECTION")]
    pub direction: Option<String>,
    /// How the answer is written; JSON is an object in each line.
    #[command(flatten)]
    pub form: Form,
}

/// `taskgate task`.
#[derive(Clone, Debug, Subcommand)]
pub enum TaskCommand {
    /// List the tasks that are to be gated on this host
    List(Form),
    /// Add a task: make its ENI or bind it to a link, and wait until its gate stands. It stays until it is removed
    Add(AddTaskArgs),
    /// Remove a task that was added: its gate closes, and what taskgate made for it goes
    Remove(RemoveTaskArgs),
    /// Isolate a task, added or configured: its tracked connections end, and nothing passes
    Isolate(IsolateTaskArgs),
}

/// `taskgate task add`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("place").args(["namespace", "device", "netns", "pid"])))]
pub struct AddTaskArgs {
    /// The task's name
    pub name: String,
    /// A security group, by name or id; several in their order
    #[arg(long = "group", value_name = "GROUP", required = true)]
    pub groups: Vec<String>,
    /// An address; the first of each family is the one that the task sends from
    #[arg(long = "address", value_name = "ADDRESS", required = true)]
    pub addresses: Vec<String>,
    /// Make its ENI in the network namespace of this name, which is made where it is missing [default: that of the task's name]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Bind it to this link, which is there: the host's end of a veth pair, or a VLAN link
    #[arg(long, value_name = "LINK")]
    pub device: Option<String>,
    /// Make its ENI in the network namespace behind this file
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// Make its ENI in the network namespace of this process
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// The form of the answer
    #[command(flatten)]
    pub form: Form,
}

/// `taskgate task remove`.
#[derive(Clone, Debug, Args)]
pub struct RemoveTaskArgs {
    /// The task's name
    pub name: String,
    /// The form of the answer
    #[command(flatten)]
    pub form: Form,
}

/// `taskgate task isolate`.
#[derive(Clone, Debug, Args)]
pub struct IsolateTaskArgs {
    /// The task's name
    pub name: String,
    /// Let its rules decide again
    #[arg(long)]
    pub undo: bool,
    /// The form of the answer
    #[command(flatten)]
    pub form: Form,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Args)]
pub struct Form {
    /// The form of the answer
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// `taskgate cleanup`.
#[derive(Clone, Debug, Args)]
pub struct Cleanup {
    /// Do it: what was gated is open then, ENIs that taskgate made are gone, and so are tracked connections
    #[arg(long, required = true)]
    pub yes: bool,
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
    /// The receiver, named as the sender
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

/// Log levels.
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
