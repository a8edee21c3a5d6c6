//! Authentication headers (RFC 4302): a rule for protocol 51 admits them in both families, whatever their payload.

use anyhow::Result;
use testkit::{
    Capture, Config, Count, E2eTest, Flow, Ledger, Netns, at,
    fixture::frames,
    ip,
    traffic::{UdpPeer, inject},
};

/// The task's address, and that of its peer, by family.
const FAMILIES: [(&str, &str); 2] = [("10.88.0.10", "10.99.0.2"), ("fd88::10", "fd99::2")];
const PORT: u16 = 500;
const DATA: &[u8] = b"data of the test";

/// A task whose peers may send the protocol `protocol`, and that may send nothing.
fn task(config: Config, protocol: &str) -> Config {
    let rules = format!("ingress: [{{ protocol: {protocol}, from: [10.99.0.0/24, 'fd99::/64'] }}], egress: []");
    let addresses = FAMILIES.map(|(task, _)| task);
    config.group("peers", &rules).task("task-1", &addresses, &["peers"])
}

/// A packet with an authentication header of 24 bytes and a datagram in it.
fn one(from: &str, to: &str) -> (Flow, Count) {
    let header = if ip(from).is_ipv4() { 20 } else { 40 };
    let bytes = header + 24 + 8 + DATA.len() as u64;
    (Flow::plain(ip(from), ip(to), 51), Count::new(1, bytes))
}

#[test]
fn a_rule_for_authentication_admits_it_in_both_families() -> Result<()> {
    for protocol in ["51", "udp"] {
        let stage = E2eTest::start(|config| task(config, protocol))?;
        let inside = Capture::tap(stage.task("task-1")?, "eth0")?;
        let mut expected = Ledger::default();
        for (task, peer) in FAMILIES {
            let datagram = frames::udp(PORT, PORT, DATA);
            let packet = frames::ip(ip(peer), ip(task), 51, &frames::authentication(17, 4, &datagram));
            inject(&stage.topology.outside, &frames::with_checksum(packet)[14..])?;
            let (flow, count) = one(peer, task);
            expected = if protocol == "51" {
                expected.accept("task-1", flow, count)
            } else {
                expected.reject("task-1", flow, count)
            };
        }
        if protocol == "51" {
            inside.await_count(DATA, 2)?;
        } else {
            stage.await_denials("task-1", 2)?;
            assert_eq!(inside.count(DATA)?, 0);
        }
        // A kernel without support for the header reports that by ICMP, as far as the task's rules allow.
        let recorded = stage.daemon.stop()?.ledger()?;
        assert_eq!(recorded.without(|flow| [1, 58].contains(&flow.protocol)), expected);
    }
    Ok(())
}

/// Authenticates all datagrams between a task and its peer (`ip xfrm`); both refuse others.
fn authenticate(stage: &E2eTest) -> Result<()> {
    const KEY: &str = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let sides: [(&Netns, [&str; 2]); 2] = [
        (stage.task("task-1")?, ["out", "in"]),
        (&stage.topology.outside, ["in", "out"]),
    ];
    for (netns, directions) in sides {
        for (task, peer) in FAMILIES {
            for ((from, to), direction) in [(task, peer), (peer, task)].into_iter().zip(directions) {
                netns.ip(&format!(
                    "xfrm state add src {from} dst {to} proto ah spi 0x100 mode transport auth hmac(sha256) {KEY}
                     xfrm policy add src {from} dst {to} proto 17 dir {direction} tmpl src {from} dst {to} proto ah mode transport"
                ))?;
            }
        }
    }
    Ok(())
}

/// Both ends are the kernel's own.
#[test]
#[ignore = "needs authentication headers in the kernel: `cargo xtask vm` runs it"]
fn a_peer_that_authenticates_what_it_sends_is_admitted_by_that_rule_alone() -> Result<()> {
    for protocol in ["51", "udp"] {
        let stage = E2eTest::start(|config| task(config, protocol))?;
        authenticate(&stage)?;
        let mut expected = Ledger::default();
        for (task, peer) in FAMILIES {
            let server = UdpPeer::bind(stage.task("task-1")?, &at(task, PORT).to_string())?;
            let client = UdpPeer::bind(&stage.topology.outside, &at(peer, PORT).to_string())?;
            client.send(at(task, PORT), DATA)?;
            let (flow, count) = one(peer, task);
            if protocol != "51" {
                expected = expected.reject("task-1", flow, count);
                continue;
            }
            assert_eq!(server.expect(DATA)?, at(peer, PORT));
            server.send(at(peer, PORT), DATA)?;
            assert_eq!(client.expect(DATA)?, at(task, PORT));
            expected = expected
                .accept("task-1", flow, count)
                .accept("task-1", flow.back(), count);
        }
        if protocol != "51" {
            stage.await_denials("task-1", 2)?;
        }
        stage.finish(&expected)?;
    }
    Ok(())
}
