//! Branches with separate VLAN links, each in its task's namespace, and real traffic: the trunk's gate judges it where
//! no gate is near the task.
//!
//! Not every kernel can make such links: `cargo xtask vm` runs this test on those that can; elsewhere it is counted as
//! ignored.

use anyhow::Result;
use taskgate_net::sys::{VlanSwitch, turn_vlan_switch};
use testkit::{
    Config, Count, Ledger, Netns, Topology, Wire, at, ip,
    kernel::{await_gates, gates},
    netns::await_up,
    traffic::{Answer, Client, TcpEcho, UdpPeer, probe},
    wire::Way,
};

const RULES: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], \
                     egress: [{ protocol: tcp, ports: 443, to: any }]";
/// Each branch: its task, its VLAN, and the third byte of its addresses.
const BRANCHES: [(&str, u16, u8); 2] = [("web-1", 101, 1), ("web-2", 102, 2)];

/// The addresses of a branch and of the other side, by family.
fn addresses(branch: u8, last: u8) -> [String; 2] {
    [format!("10.88.{branch}.{last}"), format!("fd88:{branch}::{last}")]
}

/// A VLAN link on `link` of `netns`, with addresses, that ends up in `place` as `name`.
fn vlan_link(netns: &Netns, link: &str, vlan: u16, place: &Netns, name: &str, addresses: &[String; 2]) -> Result<()> {
    netns.ip(&format!("link add link {link} name v{vlan} type vlan id {vlan}"))?;
    let path = place.path();
    netns.ip(&format!("link set dev v{vlan} netns {path} name {name}"))?;
    let [v4, v6] = addresses;
    place.ip(&format!(
        "address add {v4}/24 dev {name}
         address add {v6}/64 dev {name} nodad
         link set dev {name} up"
    ))
}

/// A branch, and its counterpart on the other side of the wire.
struct Branch {
    name: &'static str,
    task: Netns,
    inside: Wire,
    outside: Wire,
    addresses: [[String; 2]; 2],
}

/// `in_frames`: whether the other end of the trunk puts the tags into its frames, where they can be dropped early.
fn real_traffic(in_frames: bool) -> Result<()> {
    let topology = Topology::new()?;
    let wire = Netns::new("wire")?;
    topology.host.add_veth("trunk", &wire, "eth0")?;
    topology.host.ip("link set dev trunk up")?;
    wire.ip("link set dev eth0 up")?;
    wire.run(|| Ok(turn_vlan_switch("eth0", VlanSwitch::Transmit, !in_frames)?))?;
    await_up(&[(&topology.host, "trunk"), (&wire, "eth0")])?;
    let mut config = topology
        .config()
        .group("web", RULES)
        .with("uplink: { device: trunk, mode: trunk }");
    let mut branches = Vec::new();
    for (name, vlan, number) in BRANCHES {
        let task = Netns::new(name)?;
        let (own, other) = (addresses(number, 10), addresses(number, 1));
        let far = format!("far{vlan}");
        vlan_link(&topology.host, "trunk", vlan, &task, "eth0", &own)?;
        // The branch's messages on its link must have the hardware address of the configuration.
        let mac = Config::vlan_mac_text(vlan);
        task.ip(&format!("link set dev eth0 address {mac}"))?;
        vlan_link(&wire, "eth0", vlan, &wire, &far, &other)?;
        await_up(&[(&task, "eth0"), (&wire, &far)])?;
        config = config.vlan_task(name, vlan, &[&own[0], &own[1]], &["web"]);
        branches.push(Branch {
            name,
            inside: Wire::tap(&task, "eth0")?,
            outside: Wire::tap(&wire, &far)?,
            addresses: [own, other],
            task,
        });
    }
    // Behind the prefilter and before the gate.
    let between = Wire::tap(&topology.host, "trunk")?;
    let daemon = topology.start(&config)?;
    await_gates(&topology.host, "trunk")?;
    daemon.await_message("dropped early, by its driver (XDP)")?;
    let _outside = [80, 443].map(|port| TcpEcho::start(&wire, port));
    let mut expected = Ledger::default();
    for branch in &branches {
        let [own, other] = &branch.addresses;
        let _inside = [80, 443].map(|port| TcpEcho::start(&branch.task, port));
        for (own, other) in own.iter().zip(other) {
            let mut client = Client::connect(&wire, at(own, 80))?;
            client.echo(200_000)?;
            client.finish()?;
            let mut client = Client::connect(&branch.task, at(other, 443))?;
            client.echo(200_000)?;
            client.finish()?;
            assert_eq!(probe(&wire, at(own, 443))?, Answer::Silence);
            let headers = if ip(own).is_ipv4() { 28 } else { 48 };
            let kept_in = UdpPeer::bind(&branch.task, &at(own, 0).to_string())?.send(at(other, 53), b"request")?;
            let passed_by = branch.outside.received(kept_in)?;
            assert_eq!(passed_by, Count::default());
            expected = expected.reject(branch.name, kept_in, Count::new(1, headers + 7));
        }
    }
    let stopped = daemon.stop()?;
    for branch in &branches {
        expected = expected.and(Ledger::of_wires(&[(branch.name, &branch.inside)])?.without(|flow| {
            // Already counted as denied egress.
            flow.destination.port() == 53
        }));
        for ((way, flow), sent) in branch.outside.flows()? {
            let lost = sent - branch.inside.received(flow)?;
            if way == Way::In || lost == Count::default() {
                continue;
            }
            expected = expected.reject(branch.name, flow, lost);
            let came_by = between.received(flow)?;
            assert_eq!(came_by, if in_frames { Count::default() } else { sent }, "{flow:?}");
        }
    }
    assert_eq!(stopped.ledger()?, expected);
    assert_eq!(gates(&topology.host, "trunk")?, (0, 0));
    Ok(())
}

#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn vlan_links_elsewhere_whose_frames_come_with_their_tags() -> Result<()> {
    real_traffic(true)
}

#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn vlan_links_elsewhere_whose_tags_come_beside_their_frames() -> Result<()> {
    real_traffic(false)
}
