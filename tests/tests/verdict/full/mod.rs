//! Limits and full tables: tasks do not use up each other's share, and no admitted connection is lost.

mod accounts;
mod fragments;

use anyhow::Result;
use taskgate_compiler::EniLimits;
use taskgate_ebpf::{
    abi::{Direction, image::Shared},
    host::Left,
};
use taskgate_tables::image::host_image;
use testkit::fixture::{
    DataPath as _, DataPathTest, Fixture, Host, Kernel, Sent, all_gated, frames::*, model::gated, on_host_and_in_kernel,
};

use super::*;

const OTHER4: &str = "10.9.0.6";
const OTHER6: &str = "2001:db8:9::6";

/// Two tasks that admit any peer to 443, with this many connections and denied flows for each.
fn two(test: &mut DataPathTest<'_>, connections: u32, denials: u32, tracked: bool) -> Result<()> {
    let peer = if tracked { "10.0.0.0/8" } else { "0.0.0.0/0" };
    let mut model = with_rules(&[(tcp_to(443, 443), peer)], &[(Protocol::All, "0.0.0.0/0")]);
    model.enis.push(gated("other", &[OTHER4], &[0]));
    test.set_with(model, &|_| {
        Some(EniLimits {
            connections,
            isolated: false,
        })
    })?;
    test.fixture.share(Shared::Connections, connections, 0);
    test.fixture.share(Shared::Denials, denials, 0);
    Ok(())
}

fn syn_from(port: u16, to: &str, to_port: u16) -> Vec<u8> {
    ip(at(PEER4), at(to), 6, &tcp(port, to_port, flags::SYN, b""))
}

/// The counters and losses, and the numbers of connections and denied flows.
fn sums(test: &mut DataPathTest<'_>) -> Result<(Vec<String>, usize, usize)> {
    let state = test.path.state(test.fixture.highest)?;
    let lines = state.lines(&test.fixture);
    let sums = lines
        .into_iter()
        .filter(|line| line.starts_with("count") || line.starts_with("lost"));
    Ok((sums.collect(), state.conns.len(), state.denials.len()))
}

/// AWS: SG-TRACK-8
#[test]
fn a_task_over_its_limit_is_denied_and_others_are_not() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, 3, 100, true)?;
        for port in 1000..1010 {
            assert_eq!(test.ingress(&syn_from(port, TASK4, 443))?, port < 1003, "{}", test.name);
        }
        for port in 1000..1003 {
            let answer = ip(at(TASK4), at(PEER4), 6, &tcp(443, port, flags::SYN_ACK, b""));
            assert!(test.egress(&answer)?, "old ones live on");
            assert!(
                test.send(Direction::Ingress, 1, &syn_from(port, OTHER4, 443))?,
                "another task's share"
            );
        }
        // An idle entry makes room for its own flow alone.
        test.wait(61)?;
        assert!(!test.ingress(&syn_from(1009, TASK4, 443))?);
        assert!(test.ingress(&syn_from(1000, TASK4, 443))?);
        let expected = [
            "count other ingress rule 3",
            "count task ingress rule 4",
            "count task ingress task-connections-full 8",
        ];
        assert_eq!(
            sums(test)?,
            (expected.map(String::from).to_vec(), 6, 7),
            "{}",
            test.name
        );
        Ok(())
    })
}

#[test]
fn an_untracked_flow_without_room_passes_and_is_counted_as_lost() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, 2, 100, false)?;
        for port in 1000..1005 {
            assert!(test.ingress(&syn_from(port, TASK4, 443))?);
            assert!(test.ingress(&syn_from(port, TASK4, 443))?);
        }
        let expected = ["count task ingress rule 8", "lost task flows 6 denials 0"];
        assert_eq!(
            sums(test)?,
            (expected.map(String::from).to_vec(), 2, 0),
            "{}",
            test.name
        );
        Ok(())
    })
}

#[test]
fn denied_flows_beyond_the_limit_are_counted_as_lost() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, 100, 2, true)?;
        for port in 1000..1005 {
            assert!(!test.ingress(&syn_from(port, TASK4, 22))?);
        }
        assert!(!test.ingress(&syn_from(1000, TASK4, 22))?, "one that has its record");
        assert!(
            !test.send(Direction::Ingress, 1, &syn_from(1000, OTHER4, 22))?,
            "another task's share"
        );
        let expected = [
            "count other ingress no-rule 1",
            "count task ingress no-rule 6",
            "lost task flows 0 denials 3",
        ];
        assert_eq!(
            sums(test)?,
            (expected.map(String::from).to_vec(), 0, 3),
            "{}",
            test.name
        );
        Ok(())
    })
}

/// The shares exceed the table: a flow without a free way in either of its buckets is denied as if its share were used
/// up.
/// AWS: SG-TRACK-8
#[test]
fn the_hosts_table_is_full() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, 10_000, 10_000, true)?;
        let packets = 3 * Kernel::ROOM as u16;
        let mut passed = Vec::new();
        for port in 1000..1000 + packets {
            if test.ingress(&syn_from(port, TASK4, 443))? {
                passed.push(port);
            }
        }
        for port in &passed {
            assert!(
                test.egress(&ip(at(TASK4), at(PEER4), 6, &tcp(443, *port, flags::SYN_ACK, b"")))?,
                "{}: what was admitted is found in a full table",
                test.name
            );
        }
        for port in 1000..1000 + packets {
            assert!(!test.ingress(&syn_from(port, TASK4, 22))?);
        }
        let (found, conns, denials) = sums(test)?;
        let room = Kernel::ROOM as usize;
        let ways = room * 2;
        assert_eq!(conns, passed.len(), "{}", test.name);
        for entries in [conns, denials] {
            assert!((room..ways).contains(&entries), "{}: {entries} entries", test.name);
        }
        let packets = usize::from(packets);
        let (refused, lost) = (packets - conns, packets - denials);
        let expected = [
            format!("count task ingress connections-full {refused}"),
            format!("count task ingress no-rule {packets}"),
            format!("count task ingress rule {conns}"),
            format!("lost task flows 0 denials {}", lost + refused),
        ];
        assert_eq!(found, expected, "{}", test.name);
        Ok(())
    })
}

/// Which an insert finds where other CPUs claim the same ways in each of its tries.
#[test]
fn a_busy_table_drops_nothing_that_is_allowed() -> Result<()> {
    let image = host_image(7);
    let model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]);
    let mut fixture = Fixture::new(&image)?;
    fixture.apply(model, &all_gated)?;
    fixture.bind(101, "task")?;
    let mut host = Host::new(&image, 100);
    let send = |host: &mut Host<'_>, frame: &[u8]| {
        host.judge(&Sent {
            frame,
            link: 101,
            direction: Direction::Ingress,
            came_by: 0,
            segments: (0, 0),
            left: Left::NOTHING,
        })
    };
    for (number, busy) in [1, 1, 0].into_iter().enumerate() {
        host.tables.be_busy(busy);
        assert!(send(&mut host, &syn_from(1000, TASK4, 443))?, "packet {number}");
        host.tables.be_busy(busy);
        assert!(!send(&mut host, &syn_from(1000, TASK4, 22))?, "packet {number}");
    }
    assert_eq!(
        host.state(fixture.highest)?.lines(&fixture),
        [
            "conn task tcp 10.9.0.5:443 10.0.1.7:1000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes flags 2: ingress",
            "count task ingress no-rule 3",
            "count task ingress rule 3",
            "denied task ingress tcp 10.9.0.5:22 10.0.1.7:1000 no-rule, 1 packets 40 bytes flags 2",
            "lost task flows 2 denials 2",
        ]
    );
    Ok(())
}
