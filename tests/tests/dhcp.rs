//! DHCP, by a real client and a real server, through the gate of a task that may do nothing.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Result;
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Config, Daemon, Flow, MapDump, Netns, Topology, at,
    netns::until,
    record::Record,
    traffic::{
        UdpPeer,
        dhcp::{DhcpClient, Server},
    },
};

const DEVICE: &str = "tg-dhcp";
const TASK: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 10);
const SERVER: &str = "10.88.0.1";

/// A task whose groups allow nothing and that has no address yet, on a link on which a DHCP server listens.
fn unaddressed(topology: &Topology, settings: &str) -> Result<(Netns, Daemon, Server)> {
    let task = topology.device(DEVICE, &[], true)?;
    topology.host.ip(&format!("address add {SERVER}/24 dev {DEVICE}"))?;
    let daemon = topology.start(&config(topology, settings))?;
    let server = Server::start(&topology.host, topology.folder(), DEVICE, SERVER, TASK)?;
    Ok((task, daemon, server))
}

fn config(topology: &Topology, settings: &str) -> Config {
    topology
        .config()
        .group("closed", "egress: []")
        .device_task("task-1", DEVICE, &[&TASK.to_string()], &["closed"])
        .with(settings)
}

/// The records of DHCP, which ledgers leave out.
fn dhcp_records(records: &[Record]) -> Vec<(Flow, Action, u64)> {
    let seen = records.iter().filter_map(|record| record.flow.as_ref());
    let mut told: Vec<_> = seen
        .filter(|seen| [67, 68, 546, 547].contains(&seen.tuple.destination.port()))
        .map(|seen| (seen.tuple, seen.action, seen.count.packets))
        .collect();
    told.sort_unstable_by_key(|(flow, ..)| *flow);
    told.dedup_by(|(flow, action, packets), (other, of, sum)| {
        let same = (&*flow, &*action) == (&*other, &*of);
        *sum += if same { *packets } else { 0 };
        same
    });
    told
}

/// AWS: SG-EXEMPT-1, FL-SILENT-1
#[test]
fn a_task_gets_its_address_though_its_groups_allow_nothing() -> Result<()> {
    for broadcast in [false, true] {
        let topology = Topology::new()?;
        let (task, daemon, _server) = unaddressed(&topology, "")?;
        let held = MapDump::of(&daemon)?;
        let client = DhcpClient::start(&task, topology.folder(), broadcast)?;
        client.await_event(0, &format!("bound {TASK} by {SERVER}"))?;
        assert!(
            task.output("ip", &["address", "show", "dev", "eth0"])?
                .contains(&TASK.to_string())
        );
        assert_eq!(held.counted(Egress, "no-rule")?, [0; 0]);
        assert_eq!(held.counted(Ingress, "no-rule")?, [0; 0]);
        // Everything else is denied: even the server's DHCP port from another port.
        task.ip(&format!("route add {SERVER}/32 dev eth0"))?;
        let socket = UdpPeer::bind(&task, &at(&TASK.to_string(), 0).to_string())?;
        let denied = socket.send(at(SERVER, 67), b"not DHCP's port")?;
        daemon.await_ledger(|ledger| ledger.get("task-1", denied, Action::Reject).packets == 1)?;
        drop(client);
        let stopped = daemon.stop()?;
        assert_eq!(dhcp_records(&stopped.records), [(denied, Action::Reject, 1)]);
    }
    Ok(())
}

/// A lease is renewed by asking the server that granted it: an ordinary address, unless it is the VPC router's. A client
/// without an answer asks all servers again before its lease ends.
///
/// AWS: SG-EXEMPT-1, FL-SILENT-1
#[test]
fn a_lease_is_renewed_where_the_server_is_the_router() -> Result<()> {
    for router in [false, true] {
        let topology = Topology::new()?;
        if router {
            let folder = topology.folder().join("main");
            fs::create_dir_all(&folder)?;
            let subnets = serde_json::json!({ "Subnets": [{
                "SubnetId": "subnet-0123456789abcdef0", "VpcId": "vpc-0123456789abcdef0",
                "CidrBlock": "10.88.0.0/24", "Ipv6CidrBlockAssociationSet": [],
                "AvailabilityZoneId": "euw1-az1", "OwnerId": "111122223333",
            }] });
            fs::write(folder.join("subnets.json"), subnets.to_string())?;
        }
        let (task, daemon, _server) = unaddressed(&topology, "")?;
        let held = MapDump::of(&daemon)?;
        let client = DhcpClient::start(&task, topology.folder(), false)?;
        client.await_event(0, &format!("bound {TASK} by {SERVER}"))?;
        task.ip(&format!("route add {SERVER}/32 dev eth0"))?;
        let start = client.events();
        client.renew()?;
        let renewal = Flow::udp(at(&TASK.to_string(), 68), at(SERVER, 67));
        if router {
            client.await_event(start, &format!("renew {TASK} by {SERVER}"))?;
        } else {
            daemon.await_ledger(|ledger| ledger.get("task-1", renewal, Action::Reject).packets > 0)?;
        }
        drop(client);
        let denied: u64 = held.counted(Egress, "no-rule")?.iter().sum();
        let expected = (!router).then_some((renewal, Action::Reject, denied));
        let stopped = daemon.stop()?;
        assert_eq!(dhcp_records(&stopped.records), expected.into_iter().collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn without_exemptions_dhcp_is_denied_and_recorded() -> Result<()> {
    let topology = Topology::new()?;
    let (task, mut daemon, _server) = unaddressed(&topology, "settings: { exempt: none, unlogged: none }")?;
    let held = MapDump::of(&daemon)?;
    let client = DhcpClient::start(&task, topology.folder(), false)?;
    until("the client has asked twice", || {
        Ok(held
            .counted(Egress, "spoofed-source")?
            .first()
            .is_some_and(|packets| *packets >= 2))
    })?;
    assert_eq!(client.events(), 1, "it has only said that it begins");
    // Once DHCP is exempt, the same client has its address.
    daemon.apply(&config(&topology, "settings: { exempt: aws, unlogged: none }"))?;
    client.await_event(0, &format!("bound {TASK} by {SERVER}"))?;
    drop(client);
    let denied: u64 = held.counted(Egress, "spoofed-source")?.iter().sum();
    let stopped = daemon.stop()?;
    let told = dhcp_records(&stopped.records);
    // Records have the primary address in place of the unspecified one.
    let asked = Flow::udp(at(&TASK.to_string(), 68), at("255.255.255.255", 67));
    let rejected: Vec<_> = told.iter().filter(|(_, action, _)| *action == Action::Reject).collect();
    assert_eq!(rejected, [&(asked, Action::Reject, denied)]);
    assert!(
        told.iter()
            .any(|(flow, action, _)| (*flow, *action) == (asked, Action::Accept)),
        "{told:?}"
    );
    Ok(())
}

/// The link-local address of a link in a namespace.
fn link_local(netns: &Netns, link: &str) -> Result<String> {
    let mut found = None;
    until("the link has a link-local address", || {
        let shown = netns.output("ip", &["-6", "-o", "address", "show", "dev", link, "scope", "link"])?;
        let addresses = shown.split_whitespace().skip_while(|word| *word != "inet6").nth(1);
        found = addresses
            .filter(|_| !shown.contains("tentative"))
            .and_then(|address| Some(address.split_once('/')?.0.to_owned()));
        Ok(found.is_some())
    })?;
    Ok(found.unwrap_or_default())
}

fn link_index(netns: &Netns, link: &str) -> Result<u32> {
    netns.run(|| Ok(nix::net::if_::if_nametoindex(link)?))
}

/// AWS: SG-EXEMPT-1, FL-SILENT-1
#[test]
fn dhcpv6_goes_by_link_local_addresses() -> Result<()> {
    for exempt in [true, false] {
        let topology = Topology::new()?;
        let task = topology.device(DEVICE, &["fd88::10"], true)?;
        let settings = if exempt {
            ""
        } else {
            "settings: { exempt: none, unlogged: none }"
        };
        let config = topology.config().group("closed", "egress: []");
        let daemon = topology.start(
            &config
                .device_task("task-1", DEVICE, &["fd88::10"], &["closed"])
                .with(settings),
        )?;
        let held = MapDump::of(&daemon)?;
        let own = link_local(&task, "eth0")?;
        let server = UdpPeer::bind(&topology.host, "[::]:547")?;
        server.join("ff02::1:2".parse()?, link_index(&topology.host, DEVICE)?)?;
        let client = UdpPeer::bind(&task, &format!("[{own}%{}]:546", link_index(&task, "eth0")?))?;
        let seen_by_host: SocketAddr = format!("[{own}%{}]:546", link_index(&topology.host, DEVICE)?).parse()?;
        let servers = format!("[ff02::1:2%{}]:547", link_index(&task, "eth0")?).parse()?;
        if exempt {
            client.send(servers, b"solicit")?;
            assert_eq!(server.expect(b"solicit")?, seen_by_host);
            server.send(seen_by_host, b"advertise")?;
            client.expect(b"advertise")?;
            let other = UdpPeer::bind(&topology.host, "[::]:5470")?;
            other.send(seen_by_host, b"from no server's port")?;
            until("the other port is denied", || {
                Ok(held.counted(Ingress, "no-rule")? == [1])
            })?;
        } else {
            server.send(seen_by_host, b"advertise")?;
            until("the answer is denied", || Ok(held.counted(Ingress, "no-rule")? == [1]))?;
            client.send(servers, b"solicit")?;
            until("the request is denied", || Ok(held.counted(Egress, "no-rule")? == [1]))?;
            assert!(server.is_silent()?);
        }
        assert!(client.is_silent()?);
        let stopped = daemon.stop()?;
        let told = dhcp_records(&stopped.records)
            .into_iter()
            .map(|(flow, action, packets)| {
                assert_eq!(action, Action::Reject, "{flow:?}");
                (flow.destination.port(), packets)
            });
        let denied = if exempt {
            vec![(546, 1)]
        } else {
            vec![(546, 1), (547, 1)]
        };
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        assert_eq!(told, denied);
    }
    Ok(())
}
