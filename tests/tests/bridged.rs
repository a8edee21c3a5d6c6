//! Tasks that share a link with each other and with ungated neighbours: a bridge of their devices.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Config, MapDump, Netns, Topology,
    fixture::frames,
    ip,
    kernel::await_gates,
    netns::{await_up, until},
    traffic::{Sender, UdpPeer},
};

const ALL_NODES: &str = "ff02::1";
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const GATEWAY: &str = "fe80::1";
const RULES: &str = "ingress: [{ protocol: udp, ports: 53, from: ['fe80::/10'] }], \
                     egress: [{ protocol: udp, ports: 53, to: ['fe80::/10'] }]";

/// A namespace whose `eth0` is on the bridge, with its link-local address and its hardware address.
struct Neighbour {
    netns: Netns,
    index: u32,
    address: Ipv6Addr,
    mac: [u8; 6],
}

fn index(netns: &Netns, link: &str) -> Result<u32> {
    let shown = netns.output("ip", &["-o", "link", "show", "dev", link])?;
    Ok(shown.split(':').next().context("no link")?.trim().parse()?)
}

impl Neighbour {
    /// Makes its link; `joins`: on the bridge at once.
    fn new(topology: &Topology, name: &str, last: u8, joins: bool) -> Result<Self> {
        let netns = Netns::new(name)?;
        let mac = [2, 0, 0, 0, 0x88, last];
        let path = netns.path();
        let device = format!("tg-{name}");
        topology.host.ip(&format!(
            "link add name {device} type veth peer name eth0 address 02:00:00:00:88:{last:02x} netns {path}
             link set {device} up"
        ))?;
        if joins {
            topology.host.ip(&format!("link set {device} master bridge"))?;
        }
        // Without duplicate address detection, as in many runtimes.
        netns.set("net.ipv6.conf.eth0.accept_dad", "0")?;
        netns.ip("link set eth0 up")?;
        await_up(&[(&topology.host, &device), (&netns, "eth0")])?;
        let index = index(&netns, "eth0")?;
        let address = Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x8800 | u16::from(last)]);
        Ok(Self {
            netns,
            index,
            address,
            mac,
        })
    }

    fn ip(&self) -> IpAddr {
        self.address.into()
    }

    /// An address with the link as its scope, in the form that sockets need.
    fn on_link(&self, of: Ipv6Addr, port: u16) -> String {
        format!("[{of}%{}]:{port}", self.index)
    }

    /// Its neighbour entry for an address.
    fn knows(&self, address: &str) -> Result<String> {
        self.netns
            .output("ip", &["-6", "neighbour", "show", address, "dev", "eth0"])
    }

    fn asks(&self, port: u16, whom: &Self) -> Result<()> {
        let client = UdpPeer::bind(&self.netns, &self.on_link(self.address, port))?;
        client.send(self.on_link(whom.address, 53).parse()?, b"query")?;
        Ok(())
    }
}

/// A neighbour advertisement that overrides the known entry, with its checksum.
fn announces(address: IpAddr, mac: [u8; 6], to: IpAddr, to_mac: [u8; 6]) -> Vec<u8> {
    const OVERRIDE: u16 = 0x2000;
    let IpAddr::V6(target) = address else {
        panic!("{address} is no IPv6 address");
    };
    let body = [&target.octets()[..], &[2, 1], &mac].concat();
    let mut message = frames::icmp(136, 0, OVERRIDE, &body);
    message[6..8].fill(0);
    let mut frame = frames::ipv6(address, to, 58, 255, &message);
    let covered = [&frame[22..54], &[0, message.len() as u8, 0, 58], &message].concat();
    let sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame[..6].copy_from_slice(&to_mac);
    frame[6..12].copy_from_slice(&mac);
    frame
}

fn bridge(topology: &Topology) -> Result<()> {
    topology.host.ip("link add bridge type bridge
         link set bridge up
         address add fe80::1/64 dev bridge nodad")
}

fn config(topology: &Topology) -> Config {
    topology
        .config()
        .group("talks", RULES)
        .device_task("victim-1", "tg-victim", &["fd88::10"], &["talks"])
        .device_task("other-1", "tg-other", &["fd88::20"], &["talks"])
}

#[test]
fn a_task_does_not_speak_as_its_neighbours_on_a_bridge() -> Result<()> {
    let topology = Topology::new()?;
    bridge(&topology)?;
    let (victim, watcher) = (
        Neighbour::new(&topology, "victim", 0x10, true)?,
        Neighbour::new(&topology, "watcher", 0x30, true)?,
    );
    // This neighbour joins the bridge once it is gated.
    let other = Neighbour::new(&topology, "other", 0x20, false)?;
    let daemon = topology.start(&config(&topology))?;
    await_gates(&topology.host, "tg-victim")?;
    await_gates(&topology.host, "tg-other")?;
    let held = MapDump::of(&daemon)?;
    topology.host.ip("link set tg-other master bridge")?;
    until("both are known to be on the bridge", || {
        let segments = held.segments();
        Ok(segments.len() == 2 && segments[0] == segments[1])
    })?;
    // The hosts on the bridge speak: the victim with the watcher and with the gateway.
    let server = UdpPeer::bind(&watcher.netns, &watcher.on_link(watcher.address, 53))?;
    victim.asks(40000, &watcher)?;
    server.expect(b"query")?;
    let gateway = UdpPeer::bind(
        &topology.host,
        &format!("[{GATEWAY}%{}]:53", index(&topology.host, "bridge")?),
    )?;
    let client = UdpPeer::bind(&victim.netns, &victim.on_link(victim.address, 40003))?;
    client.send(victim.on_link(GATEWAY.parse()?, 53).parse()?, b"hello")?;
    gateway.expect(b"hello")?;
    until("the watcher knows the victim", || {
        Ok(watcher
            .knows(&victim.address.to_string())?
            .contains("02:00:00:00:88:10"))
    })?;
    let refused = held.counted(Egress, "spoofed-source")?;
    ensure!(refused.is_empty(), "{refused:?}");

    let from_other = Sender::on(&other.netns, "eth0")?;
    let lies = [
        announces(victim.ip(), other.mac, ip(ALL_NODES), ALL_NODES_MAC),
        announces(victim.ip(), other.mac, watcher.ip(), watcher.mac),
        announces(ip(GATEWAY), other.mac, ip(ALL_NODES), ALL_NODES_MAC),
        announces(ip(GATEWAY), other.mac, victim.ip(), victim.mac),
    ];
    for lie in &lies {
        from_other.send(lie)?;
    }
    // A task may announce its own address, and send from it.
    from_other.send(&announces(other.ip(), other.mac, ip(ALL_NODES), ALL_NODES_MAC))?;
    other.asks(40001, &watcher)?;
    server.expect(b"query")?;
    held.await_counted(Egress, "spoofed-source", &[lies.len() as u64])?;
    let known = watcher.knows(&victim.address.to_string())?;
    ensure!(known.contains("02:00:00:00:88:10"), "{known}");
    let known = victim.knows(GATEWAY)?;
    ensure!(!known.contains("02:00:00:00:88:20"), "{known}");
    daemon.stop()?;

    // A gate that is attached after all hosts on the bridge have spoken cuts none of them off.
    let daemon = topology.start(&config(&topology))?;
    await_gates(&topology.host, "tg-victim")?;
    victim.asks(40002, &watcher)?;
    server.expect(b"query")?;
    daemon.stop()?;
    Ok(())
}

/// A bridge floods frames to unknown destinations. Such a frame is not recorded as a denial of the tasks that it reaches.
#[test]
fn a_flooded_frame_to_a_link_local_address_of_nobody_accuses_no_task() -> Result<()> {
    const FLOODED: u64 = 20;
    let topology = Topology::new()?;
    bridge(&topology)?;
    let [_victim, _other, watcher] = [("victim", 0x10), ("other", 0x20), ("watcher", 0x30)]
        .map(|(name, last)| Neighbour::new(&topology, name, last, true))
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .try_into()
        .ok()
        .context("three neighbours")?;
    let daemon = topology.start(&config(&topology))?;
    await_gates(&topology.host, "tg-victim")?;
    await_gates(&topology.host, "tg-other")?;
    let held = MapDump::of(&daemon)?;
    let mut frame = frames::ip(watcher.ip(), ip("fe80::dead"), 17, &frames::udp(40000, 54, b"query"));
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0x99, 0x99]);
    frame[6..12].copy_from_slice(&watcher.mac);
    let from_watcher = Sender::on(&watcher.netns, "eth0")?;
    for _ in 0..FLOODED {
        from_watcher.send(&frame)?;
    }
    // Router solicitations reach all tasks as well, so the counters may be higher.
    until("both have counted all", || {
        let counted = held.counted(Ingress, "not-for-task")?;
        Ok(counted.len() == 2 && counted.iter().all(|packets| *packets >= FLOODED))
    })?;
    let stopped = daemon.stop()?;
    for task in ["victim-1", "other-1"] {
        let denied = stopped.ledger()?.total(task, Action::Reject);
        ensure!(denied.packets == 0, "{task}: {denied:?}");
    }
    Ok(())
}
