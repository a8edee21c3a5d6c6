//! Live connections after the removal of what allowed them: a rule, a group of the ENI, a member of a group, an entry of
//! a prefix list. With `on-rule-removal: keep` they go on; with `cut` their next packet is denied, and recorded.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::{
    Config, Count, E2eTest, Netns, OUTSIDE_V4, OUTSIDE_V6, at,
    ledger::{Action, Flow},
    traffic::{Client, TcpEcho, UdpPeer, try_connect},
};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
const CLIENTS: &str = "[10.99.0.0/24, 'fd99::/64']";

/// The part of the configuration that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Rule,
    GroupOfEni,
    Member,
    Entry,
    /// A rule that is open to any, where the other direction is open to any too: its flows are untracked.
    OpenRule,
}

/// The side that opens the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opens {
    Outside,
    Task,
}

/// A configuration in which one group allows TCP and UDP to the server's port 7000, and nothing allows the other
/// direction. Another group allows port 7001.
fn configure(config: Config, setting: &str, gone: Gone, opens: Opens) -> Config {
    let (direction, side) = match opens {
        Opens::Outside => ("ingress", "from"),
        Opens::Task => ("egress", "to"),
    };
    let peers = match gone {
        Gone::Rule | Gone::GroupOfEni => CLIENTS,
        Gone::Member => "[group:clients]",
        Gone::Entry => "[prefix-list:clients]",
        Gone::OpenRule => "any",
    };
    let rules = |port: u16, peers: &str| {
        let rule = |protocol: &str| format!("{{ protocol: {protocol}, ports: {port}, {side}: {peers} }}");
        format!("{direction}: [{}, {}]", rule("tcp"), rule("udp"))
    };
    let closed = match opens {
        Opens::Outside => ", egress: []",
        Opens::Task => "",
    };
    let other = match (gone, opens) {
        (Gone::OpenRule, Opens::Outside) => "",
        (Gone::OpenRule, Opens::Task) => ", ingress: [{ protocol: all, from: any }]",
        _ => closed,
    };
    config
        .group("door", &format!("{}{other}", rules(7000, peers)))
        .group("spare", &format!("{}{closed}", rules(7001, CLIENTS)))
        .group("clients", "egress: []")
        .member("10.99.0.2", &["clients"])
        .member("fd99::2", &["clients"])
        .prefix_list("clients", &["10.99.0.0/24", "10.77.0.0/16", "fd99::/64"])
        .task("web-1", &TASK, &["door", "spare"])
        .with(&format!("settings: {{ on-rule-removal: {setting} }}"))
}

fn revoke(config: Config, gone: Gone, opens: Opens) -> Config {
    let closed = match opens {
        Opens::Outside => "egress: []",
        Opens::Task => "ingress: [], egress: []",
    };
    match gone {
        Gone::OpenRule if opens == Opens::Outside => config.group("door", ""),
        Gone::OpenRule => config.group("door", "ingress: [{ protocol: all, from: any }], egress: []"),
        Gone::Rule => config.group("door", closed),
        Gone::GroupOfEni => config.task("web-1", &TASK, &["spare"]),
        Gone::Member => config.member("10.99.0.2", &["spare"]).member("fd99::2", &["spare"]),
        Gone::Entry => config.prefix_list("clients", &["10.77.0.0/16"]),
    }
}

/// Live connections of both families to the same port: TCP, and UDP that has become a stream.
struct Talks {
    tcp: Vec<Client>,
    udp: Vec<(UdpPeer, UdpPeer, Flow)>,
}

impl Talks {
    fn open(from: &Netns, to: &Netns, sources: [&str; 2], addresses: [&str; 2], port: u16) -> Result<Self> {
        let mut talks = Self {
            tcp: Vec::new(),
            udp: Vec::new(),
        };
        for (source, address) in sources.into_iter().zip(addresses) {
            let mut client = Client::connect(from, at(address, port))?;
            client.echo(1000)?;
            talks.tcp.push(client);
            let bracketed = |address: &str, port: u16| at(address, port).to_string();
            let server = UdpPeer::bind(to, &bracketed(address, port))?;
            let peer = UdpPeer::bind(from, &bracketed(source, 0))?;
            let flow = peer.converse(&server, 3)?;
            talks.udp.push((peer, server, flow));
        }
        Ok(talks)
    }

    fn go_on(&mut self) -> Result<()> {
        for client in &mut self.tcp {
            client.echo(1000)?;
        }
        for (peer, server, _) in &self.udp {
            peer.converse(server, 2)?;
        }
        Ok(())
    }

    /// The next packet of each connection is denied, in both directions. Returns the flows.
    fn are_cut(mut self) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for (peer, server, flow) in &self.udp {
            peer.send(server.address(), b"asked")?;
            server.send(peer.address(), b"answered")?;
            flows.push(*flow);
        }
        for client in &mut self.tcp {
            ensure!(!client.echoes()?, "a TCP connection goes on: {:?}", client.flow());
            flows.push(client.flow());
        }
        for (peer, server, flow) in &self.udp {
            ensure!(
                peer.is_silent()? && server.is_silent()?,
                "a UDP stream goes on: {flow:?}"
            );
        }
        for client in self.tcp {
            client.abort()?;
        }
        Ok(flows)
    }
}

fn connections_without_a_rule(gone: Gone) -> Result<()> {
    for opens in [Opens::Outside, Opens::Task] {
        for setting in ["keep", "cut"] {
            let case = || format!("{gone:?}, opened by {opens:?}, {setting}");
            one(gone, opens, setting).with_context(case)?;
        }
    }
    Ok(())
}

/// Before the removal: the fate that `diff` predicts for the connections, which are one of TCP and one of UDP in each
/// family.
fn told(test: &E2eTest, next: &Config, goes_on: bool) -> Result<()> {
    let folder = test.topology.folder().join("next");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("t.yaml"), next.to_string())?;
    let told = test.control().post("/v1/diff", &json!({ "config": folder }))?.ok()?;
    let counts = &told["connections"]["counts"];
    let (cut, kept) = if goes_on { (0, 4) } else { (4, 0) };
    ensure!(
        counts["cut"] == cut && counts["kept"] == kept && counts["unclear"] == 0,
        "{told:#}"
    );
    let lines = told["connections"]["without-rule"].as_array().context("no list")?;
    ensure!(
        !lines.is_empty() && lines.iter().all(|line| line["port"] == 7000),
        "{told:#}"
    );
    Ok(())
}

/// The client's and the server's namespace.
fn ends(test: &E2eTest, opens: Opens) -> Result<(&Netns, &Netns)> {
    let (outside, task) = (&test.topology.outside, test.task("web-1")?);
    Ok(match opens {
        Opens::Outside => (outside, task),
        Opens::Task => (task, outside),
    })
}

fn one(gone: Gone, opens: Opens, setting: &str) -> Result<()> {
    let mut test = E2eTest::start(|config| configure(config, setting, gone, opens))?;
    let (v4, v6) = (OUTSIDE_V4.to_string(), OUTSIDE_V6.to_string());
    let ours = [v4.as_str(), v6.as_str()];
    let (sources, addresses) = match opens {
        Opens::Outside => (ours, TASK),
        Opens::Task => (TASK, ours),
    };
    let (from, to) = ends(&test, opens)?;
    let echoes = [TcpEcho::start(to, 7000)?, TcpEcho::start(to, 7001)?];
    let mut talks = Talks::open(from, to, sources, addresses, 7000)?;
    let mut spare = Talks::open(from, to, sources, addresses, 7001)?;

    // Reloads without an effect on these connections do not touch them, however often they happen.
    for number in 0..2 {
        test.reload(|config| {
            config.group(
                "clients",
                &format!("ingress: [{{ protocol: tcp, ports: {number}, from: any }}], egress: []"),
            )
        })?;
        talks.go_on()?;
        spare.go_on()?;
    }
    let goes_on = setting == "keep" && gone != Gone::OpenRule;
    told(&test, &revoke(test.config.clone(), gone, opens), goes_on)?;
    test.reload(|config| revoke(config, gone, opens))?;
    // New connections are denied from now on.
    let (from, _) = ends(&test, opens)?;
    ensure!(try_connect(from, at(addresses[0], 7000))?.is_none());
    spare.go_on()?;
    let cut = if goes_on {
        talks.go_on()?;
        talks.go_on()?;
        Vec::new()
    } else {
        talks.are_cut()?
    };
    // Connections that another rule allows were never touched.
    spare.go_on()?;
    drop(spare);
    echoes.iter().try_for_each(TcpEcho::abort)?;
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    for flow in cut {
        for flow in [flow, flow.back()] {
            let denied = recorded.get("web-1", flow, Action::Reject);
            ensure!(
                denied != Count::default(),
                "no denial of {flow:?} is recorded: {recorded:?}"
            );
        }
    }
    for flow in recorded.flows("web-1", Action::Reject) {
        let ports = [flow.source.port(), flow.destination.port()];
        ensure!(
            !ports.contains(&7001),
            "a connection that a rule allows was denied: {flow:?}"
        );
    }
    Ok(())
}

/// AWS: SG-TRACK-5
#[test]
fn a_rule_is_removed() -> Result<()> {
    connections_without_a_rule(Gone::Rule)
}

/// AWS: SG-TRACK-5
#[test]
fn a_group_is_taken_from_an_eni() -> Result<()> {
    connections_without_a_rule(Gone::GroupOfEni)
}

/// AWS: SG-PEER-5, SG-TRACK-5
#[test]
fn a_member_leaves_a_group_that_a_rule_names() -> Result<()> {
    connections_without_a_rule(Gone::Member)
}

/// AWS: SG-PEER-2, SG-TRACK-5
#[test]
fn a_prefix_list_shrinks() -> Result<()> {
    connections_without_a_rule(Gone::Entry)
}

/// AWS: SG-TRACK-4, SG-TRACK-6
#[test]
fn a_rule_is_removed_by_which_flows_are_untracked() -> Result<()> {
    connections_without_a_rule(Gone::OpenRule)
}
