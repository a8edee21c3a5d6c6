//! Health checks that the host itself makes of its tasks: where they come from, and the rule that lets them in.

use anyhow::{Context as _, Result};
use testkit::{
    Flow, Topology, at, ip,
    ledger::Action,
    netns::Netns,
    traffic::{Answer, Client, TcpEcho, UdpPeer, inject, probe, udp_packet},
};

/// A task whose interface taskgate makes.
const MADE: [&str; 2] = ["10.88.0.10", "fd88::10"];
/// A task on an existing link.
const DEVICE: [&str; 2] = ["10.88.0.20", "fd88::20"];
/// The host's own addresses.
const HOST: [&str; 2] = ["10.99.0.1", "fd99::1"];
/// The host's end of the device has a separate address.
const LINK: &str = "169.254.1.1";

/// README's rule for the host's health checks.
const CHECKED: &str = "ingress: [{ protocol: tcp, ports: 8080, from: prefix-list:host }], egress: []";

/// The address that the host sends from to a task, by the command that the README names.
fn source(host: &Netns, task: &str) -> Result<String> {
    let route = host.output("ip", &["-o", "route", "get", task])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    let source = words.nth(1).with_context(|| format!("no source in `{route}`"))?;
    Ok(source.to_owned())
}

#[test]
fn the_hosts_health_checks_need_a_rule_for_its_address() -> Result<()> {
    let topology = Topology::new()?;
    let device = topology.device("tgprobe0", &DEVICE, true)?;
    let entries = [HOST[0], HOST[1], LINK];
    let config = topology
        .config()
        .prefix_list("host", &entries)
        .group("checked", CHECKED)
        .group("closed", "egress: []")
        .task("made-1", &MADE, &["checked"])
        .task("closed-1", &["10.88.0.30"], &["closed"])
        .device_task("device-1", "tgprobe0", &DEVICE, &["checked"]);
    let daemon = topology.start(&config)?;
    let (made, closed) = (topology.task("made-1")?, topology.task("closed-1")?);
    for (task, addresses, expected) in [(&made, MADE, HOST), (&device, DEVICE, [LINK, HOST[1]])] {
        let _server = TcpEcho::start(task, 8080)?;
        for (address, expected) in addresses.into_iter().zip(expected) {
            assert_eq!(source(&topology.host, address)?, expected, "{address}");
            let mut client = Client::connect(&topology.host, at(address, 8080))?;
            client.echo(100)?;
            assert_eq!(client.finish()?.source.ip(), ip(expected));
            assert_eq!(probe(&topology.host, at(address, 8081))?, Answer::Silence);
        }
    }
    // Without a rule the host is denied like any other.
    let _server = TcpEcho::start(&closed, 8080)?;
    assert_eq!(probe(&topology.host, at("10.88.0.30", 8080))?, Answer::Silence);
    let denied = daemon.stop()?.ledger()?;
    for task in ["made-1", "device-1", "closed-1"] {
        assert!(denied.total(task, Action::Reject).packets > 0, "{task}");
    }
    Ok(())
}

/// A rule for the host's address does not admit hosts that claim it on the wire: the kernel drops IPv4 packets from a
/// link with the host's own address as their source. It accepts them over IPv6, which docs/security.md says.
#[test]
fn nobody_on_the_wire_speaks_as_the_host_over_ipv4() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .prefix_list("host", &HOST)
        .group(
            "checked",
            "ingress: [{ protocol: udp, ports: 8080, from: prefix-list:host }], egress: []",
        )
        .task("made-1", &MADE, &["checked"]);
    let daemon = topology.start(&config)?;
    let made = topology.task("made-1")?;
    let server = UdpPeer::bind(&made, &at(MADE[0], 8080).to_string())?;
    let spoofed = Flow::udp(at(HOST[0], 4000), server.address());
    inject(&topology.outside, &udp_packet(spoofed, b"healthy?")?)?;
    // The host's own packet follows on the same way, and is the first to arrive.
    UdpPeer::bind(&topology.host, &at(HOST[0], 4001).to_string())?.converse(&server, 1)?;
    assert!(server.is_silent()?);
    let passed = daemon.stop()?.ledger()?;
    assert_eq!(passed.get("made-1", spoofed, Action::Accept).packets, 0);
    Ok(())
}
