//! The packet filters that are compared, and the rule set of each for the same rules.

use std::{
    fmt::{self, Write as _},
    io::{ErrorKind, Write as _},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use taskgate_model::Family;
use testkit::{Config, Netns};

use super::rules::{AskedTask, CLIENT_DEVICE, client};

/// A packet filter between the tasks of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketFilter {
    /// The host forwards everything.
    Absent,
    /// nftables, a rule after the other.
    NftLinear,
    /// nftables with a verdict map of links and a set of (network, port) for each task.
    NftSets,
    /// The same with a flowtable for established flows.
    NftFlowtable,
    /// iptables-legacy, with an ipset of (network, port) for each task.
    Ipset,
    Taskgate,
}

/// A program and its input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    program: &'static str,
    arguments: &'static [&'static str],
    /// The Debian package of the program.
    package: &'static str,
    input: String,
}

impl PacketFilter {
    /// All, in the order of the tables' columns.
    pub const ALL: [Self; 6] = [
        Self::Absent,
        Self::NftLinear,
        Self::NftSets,
        Self::NftFlowtable,
        Self::Ipset,
        Self::Taskgate,
    ];

    /// The commands that set the filter up on the host, in order; for taskgate see [`configure`].
    fn tools(self, rules: u16) -> Vec<Tool> {
        let nft = |input| Tool {
            program: "nft",
            arguments: &["-f", "-"],
            package: "nftables",
            input,
        };
        match self {
            Self::Absent | Self::Taskgate => Vec::new(),
            Self::NftLinear => vec![nft(nft_linear(rules))],
            Self::NftSets => vec![nft(nft_sets(rules, false))],
            Self::NftFlowtable => vec![nft(nft_sets(rules, true))],
            Self::Ipset => {
                let restore = |program, family| Tool {
                    program,
                    arguments: &["-w"],
                    package: "iptables",
                    input: iptables(family),
                };
                let sets = Tool {
                    program: "ipset",
                    arguments: &["restore"],
                    package: "ipset",
                    input: ipset(rules),
                };
                vec![
                    sets,
                    restore("iptables-legacy-restore", Family::V4),
                    restore("ip6tables-legacy-restore", Family::V6),
                ]
            }
        }
    }

    /// Whether connections are tracked by netfilter.
    pub(super) fn uses_netfilter(self) -> bool {
        !matches!(self, Self::Absent | Self::Taskgate)
    }

    /// Sets the filter up on a host. An inner error says why it is not available here.
    pub(super) fn set_up(self, host: &Netns, rules: u16) -> Result<Result<(), String>> {
        for tool in self.tools(rules) {
            if let Err(why) = tool.run(host)? {
                let why = match self {
                    Self::NftFlowtable => format!("{why} (it takes a kernel with CONFIG_NF_FLOW_TABLE_INET)"),
                    _ => why,
                };
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    /// The complete input of the filter for this number of rules, as it would be typed.
    pub fn shown(self, rules: u16) -> String {
        let mut text = format!("# {self}, {rules} rules for each task\n");
        for tool in self.tools(rules) {
            let Tool {
                program,
                arguments,
                input,
                ..
            } = tool;
            let _infallible = writeln!(text, "{program} {} <<'END'\n{input}END", arguments.join(" "));
        }
        if self == Self::Taskgate {
            let _infallible = write!(text, "{}", configure(Config::new("demo"), rules));
        }
        text
    }
}

impl fmt::Display for PacketFilter {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Absent => "no filter",
            Self::NftLinear => "nft linear",
            Self::NftSets => "nft sets",
            Self::NftFlowtable => "nft flowtable",
            Self::Ipset => "ipset",
            Self::Taskgate => "taskgate",
        })
    }
}

impl Tool {
    fn run(&self, host: &Netns) -> Result<Result<(), String>> {
        let Self {
            program,
            arguments,
            package,
            input,
        } = self;
        let mut command = host.command(program)?;
        command.args(*arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err(format!(
                    "there is no `{program}`: install the Debian package `{package}`"
                )));
            }
            child => child.with_context(|| format!("cannot run `{program}`"))?,
        };
        // A tool that exits early reports the reason by its exit status and its messages.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        if output.status.success() {
            written.transpose()?;
            return Ok(Ok(()));
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().next().unwrap_or("it does not say why").trim();
        Ok(Err(format!("`{program}` or this kernel refuses it: {first}")))
    }
}

/// The forward chain that all nftables variants have.
fn nft_table(before: &str, established: &str, to_tasks: &str) -> String {
    format!(
        "table inet gate {{\n\
         {before}\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy drop;\n\
         {established}\
         \t\tct state established,related accept\n\
         \t\tct state invalid drop\n\
         {to_tasks}\
         \t}}\n\
         }}\n"
    )
}

/// The word of nftables for a family.
fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn nft_linear(rules: u16) -> String {
    let (mut chains, mut jumps) = (String::new(), String::new());
    for task in AskedTask::ALL {
        let (family, protocol) = (nft_family(task.family), task.protocol);
        let _infallible = writeln!(chains, "\tchain {task} {{");
        for rule in task.rules(rules) {
            let (from, ports) = (&rule.from, rule.ports());
            let _infallible = writeln!(chains, "\t\t{family} saddr {from} {protocol} dport {ports} accept");
        }
        chains += "\t}\n";
        let _infallible = writeln!(jumps, "\t\toifname \"{}\" jump {task}", task.device());
    }
    nft_table(&chains, "", &jumps)
}

fn nft_sets(rules: u16, flowtable: bool) -> String {
    let (mut chains, mut jumps) = (String::new(), Vec::new());
    let mut devices = vec![CLIENT_DEVICE.to_owned()];
    for task in AskedTask::ALL {
        let (family, protocol) = (nft_family(task.family), task.protocol);
        let kind = match task.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let elements = task.rules(rules);
        let elements: Vec<_> = elements
            .iter()
            .map(|rule| format!("{} . {}", rule.from, rule.ports()))
            .collect();
        let _infallible = write!(
            chains,
            "\tset {task}_allowed {{\n\
             \t\ttype {kind} . inet_service; flags interval\n\
             \t\telements = {{ {} }}\n\
             \t}}\n\
             \tchain {task} {{\n\
             \t\t{family} saddr . {protocol} dport @{task}_allowed accept\n\
             \t}}\n",
            elements.join(", ")
        );
        jumps.push(format!("\"{}\" : jump {task}", task.device()));
        devices.push(task.device());
    }
    let jumps = format!("\t\toifname vmap {{ {} }}\n", jumps.join(", "));
    if flowtable {
        let table = format!(
            "\tflowtable fast {{\n\
             \t\thook ingress priority filter\n\
             \t\tdevices = {{ {} }}\n\
             \t}}\n",
            devices.join(", ")
        );
        let add = "\t\tct state established meta l4proto { tcp, udp } flow add @fast\n";
        nft_table(&(table + &chains), add, &jumps)
    } else {
        nft_table(&chains, "", &jumps)
    }
}

fn ipset(rules: u16) -> String {
    let mut text = String::new();
    for task in AskedTask::ALL {
        let family = match task.family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        let _infallible = writeln!(text, "create {task} hash:net,port family {family}");
        for rule in task.rules(rules) {
            let (from, protocol, ports) = (&rule.from, task.protocol, rule.ports());
            let _infallible = writeln!(text, "add {task} {from},{protocol}:{ports}");
        }
    }
    text
}

fn iptables(family: Family) -> String {
    let mut text = "*filter\n\
                    :FORWARD DROP [0:0]\n\
                    -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
                    -A FORWARD -m conntrack --ctstate INVALID -j DROP\n"
        .to_owned();
    for task in AskedTask::ALL.into_iter().filter(|task| task.family == family) {
        let device = task.device();
        let _infallible = writeln!(
            text,
            "-A FORWARD -o {device} -m set --match-set {task} src,dst -j ACCEPT"
        );
    }
    text + "COMMIT\n"
}

/// The same rules for taskgate: the client may connect to any host, and no host may connect to the client.
pub(super) fn configure(config: Config, rules: u16) -> Config {
    let both = |of: &dyn Fn(Family) -> String| [Family::V4, Family::V6].map(of);
    let addresses = both(&|family| client(family).to_string());
    let config = config.group("client", "ingress: []").device_task(
        "client",
        CLIENT_DEVICE,
        &addresses.each_ref().map(String::as_str),
        &["client"],
    );
    AskedTask::ALL.into_iter().fold(config, |config, task| {
        let name = task.to_string();
        let ingress: Vec<_> = task
            .rules(rules)
            .iter()
            .map(|rule| {
                let (from, protocol, ports) = (&rule.from, task.protocol, rule.ports());
                format!("{{ protocol: {protocol}, ports: {ports}, from: \"{from}\" }}")
            })
            .collect();
        config
            .group(&name, &format!("ingress: [{}], egress: []", ingress.join(", ")))
            .device_task(&name, &task.device(), &[&task.address().to_string()], &[&name])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/performance.md shows the rule set of each filter.
    #[test]
    fn the_documentation_has_the_rule_sets() {
        let page = include_str!("../../../../docs/performance.md");
        for (filter, lines) in [
            (
                PacketFilter::NftLinear,
                &[
                    "\t\tip saddr 10.88.0.0/16 tcp dport 443 accept",
                    "\t\toifname \"tg-tcp4\" jump tcp4",
                ][..],
            ),
            (
                PacketFilter::NftSets,
                &["\t\tip saddr . tcp dport @tcp4_allowed accept"],
            ),
            (
                PacketFilter::NftFlowtable,
                &["\t\tct state established meta l4proto { tcp, udp } flow add @fast"],
            ),
            (
                PacketFilter::Ipset,
                &[
                    "add tcp4 10.88.0.0/16,tcp:443",
                    "-A FORWARD -o tg-tcp4 -m set --match-set tcp4 src,dst -j ACCEPT",
                ],
            ),
            (
                PacketFilter::Taskgate,
                &["{ protocol: tcp, ports: 443, from: \"10.88.0.0/16\" }"],
            ),
        ] {
            let shown = filter.shown(2);
            for line in lines {
                assert!(shown.contains(line), "{filter} has no `{line}`:\n{shown}");
                assert!(page.contains(line.trim()), "the page has no `{line}` for {filter}");
            }
        }
    }

    #[test]
    fn each_filter_has_every_rule_and_the_allowed_one_last() {
        for task in AskedTask::ALL {
            let rules = task.rules(1000);
            assert_eq!(rules.len(), 1000);
            assert_eq!(rules[999].ports, (443, 443));
            assert_eq!(task.rules(1), rules[999..]);
            for filter in PacketFilter::ALL {
                if filter != PacketFilter::Absent {
                    let shown = filter.shown(1000);
                    let missing = rules.iter().find(|rule| !shown.contains(&rule.from));
                    assert_eq!(missing, None, "{filter}");
                }
            }
        }
    }

    #[test]
    fn a_tool_that_is_missing_is_named_with_its_package() -> Result<()> {
        let tool = Tool {
            program: "taskgate-has-no-such-tool",
            arguments: &[],
            package: "nowhere",
            input: String::new(),
        };
        let why = tool.run(&Netns::here()?)?;
        let expected = "there is no `taskgate-has-no-such-tool`: install the Debian package `nowhere`";
        assert_eq!(why, Err(expected.to_owned()));
        Ok(())
    }
}
