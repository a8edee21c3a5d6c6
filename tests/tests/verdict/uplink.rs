//! The prefilter at the uplink: denied packets are dropped there and recorded once, all others go on without a trace.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, LinkId, image::Shared};
use testkit::fixture::{DataPathTest, Kernel, Uplink, frames::*, model::gated, on_host_and_in_kernel};

use super::*;

const VLAN: u16 = 101;
const BRANCH: Uplink = Uplink::Trunk { tag: 0x6000 | VLAN };
const OTHER4: &str = "10.9.0.6";

/// The task of [`web`] and another task with its rules, each on a link.
fn two(test: &mut DataPathTest<'_>) -> Result<()> {
    let mut model = web();
    model.enis.push(gated("other", &[OTHER4], &[0]));
    test.set(model)
}

/// The same, and the first is a branch as well.
fn with_branch(test: &mut DataPathTest<'_>) -> Result<()> {
    two(test)?;
    test.fixture.bind(LinkId::branch(VLAN).get(), "task")
}

fn to(destination: &str, port: u16, flags: u8) -> Vec<u8> {
    ip(at(PEER4), at(destination), 6, &tcp(40000, port, flags, b""))
}

#[test]
fn what_no_rule_allows_is_dropped_with_its_record_and_the_rest_leaves_no_trace() -> Result<()> {
    on_host_and_in_kernel(|test| {
        with_branch(test)?;
        for uplink in [BRANCH, Uplink::Routed] {
            assert!(
                !test.prefilter(uplink, &to(TASK4, 22, flags::SYN))?,
                "{uplink:?} {}",
                test.name
            );
            assert!(
                test.prefilter(uplink, &to(TASK4, 443, flags::SYN))?,
                "{uplink:?} {}",
                test.name
            );
            let other_family = ip(at(PEER6), at(TASK6), 6, &tcp(40000, 22, flags::SYN, b""));
            assert!(!test.prefilter(uplink, &other_family)?);
            let own_source = ip(at(TASK4), at(TASK4), 6, &tcp(40000, 443, flags::SYN, b""));
            assert!(!test.prefilter(uplink, &own_source)?);
        }
        // To another address: on a branch the packet is not for its task; on a routed uplink it is for the other task.
        assert!(!test.prefilter(BRANCH, &to(OTHER4, 443, flags::SYN))?);
        assert!(test.prefilter(Uplink::Routed, &to(OTHER4, 443, flags::SYN))?);
        assert!(!test.prefilter(Uplink::Routed, &to(OTHER4, 22, flags::SYN))?);
        test.assert_lines(
            "each once",
            &[
                "count other ingress no-rule 1",
                "count task ingress no-rule 4",
                "count task ingress not-for-task 1",
                "count task ingress spoofed-source 2",
                "denied other ingress tcp 10.9.0.6:22 10.0.1.7:40000 no-rule, 1 packets 40 bytes flags 2",
                "denied task ingress tcp 10.9.0.5:22 10.0.1.7:40000 no-rule, 2 packets 80 bytes flags 2",
                "denied task ingress tcp 10.9.0.5:443 10.9.0.5:40000 spoofed-source, 2 packets 80 bytes flags 2",
                "denied task ingress tcp 10.9.0.6:443 10.0.1.7:40000 not-for-task, 1 packets 40 bytes flags 2",
                "denied task ingress tcp [2001:db8:9::5]:22 [2001:db8:1::7]:40000 no-rule, 2 packets 120 bytes flags 2",
            ],
        );
        Ok(())
    })
}

#[test]
fn connections_are_the_gates_and_so_is_what_cannot_be_judged_yet() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test)?;
        // Answers to the task pass, and a connection lives on without its rule.
        let asks = ip(at(TASK4), at(STRANGER4), 6, &tcp(50000, 80, flags::SYN, b""));
        let answer = ip(at(STRANGER4), at(TASK4), 6, &tcp(80, 50000, flags::SYN_ACK, b""));
        test.change(with_rules(
            &[(tcp_to(443, 443), "10.0.1.0/24")],
            &[(Protocol::All, "0.0.0.0/0")],
        ))?;
        assert!(!test.prefilter(Uplink::Routed, &answer)?);
        assert!(test.egress(&asks)?);
        assert!(test.ingress(&to(TASK4, 443, flags::SYN))?);
        test.change(with_rules(&[], &[]))?;
        assert!(
            test.prefilter(Uplink::Routed, &to(TASK4, 443, flags::ACK))?,
            "{}",
            test.name
        );
        assert!(test.prefilter(Uplink::Routed, &answer)?, "{}", test.name);
        let before = test.lines()?;
        let later = ipv4(at(PEER4), at(TASK4), 6, &[], 100, &[0; 40]);
        for (what, uplink, frame) in [
            ("a later fragment", Uplink::Routed, later.clone()),
            ("a later fragment of a branch", BRANCH, later),
            ("a host's own", Uplink::Routed, to("10.9.0.99", 22, flags::SYN)),
            ("ARP", Uplink::Routed, arp(1, at(PEER4), at(TASK4))),
            (
                "neighbour discovery",
                Uplink::Routed,
                neighbour(at(PEER6), at(TASK6), 135, at(TASK6)),
            ),
            ("malformed", Uplink::Routed, to(TASK4, 443, flags::SYN)[..40].to_vec()),
            (
                "a priority tag",
                Uplink::Trunk { tag: 0xe000 },
                to(TASK4, 22, flags::SYN),
            ),
            (
                "a tag where there is no trunk",
                Uplink::Routed,
                tagged(VLAN, &to(TASK4, 22, flags::SYN)),
            ),
        ] {
            assert!(test.prefilter(uplink, &frame)?, "{what}, {}", test.name);
            assert_eq!(test.lines()?, before, "{what}, {}", test.name);
        }
        Ok(())
    })
}

#[test]
fn a_branch_that_nobody_has_is_nobodys() -> Result<()> {
    on_host_and_in_kernel(|test| {
        with_branch(test)?;
        let allowed = to(TASK4, 443, flags::SYN);
        assert!(!test.prefilter(Uplink::Trunk { tag: VLAN + 1 }, &allowed)?);
        assert!(!test.prefilter(BRANCH, &tagged(VLAN, &allowed))?, "a tag inside a tag");
        test.fixture.writer.remove_link(LinkId::branch(VLAN));
        assert!(!test.prefilter(BRANCH, &allowed)?);
        test.assert_lines(
            "under no task's name",
            &[
                "count nobody ingress unknown-task 2",
                "count task ingress unsupported-ethertype 1",
            ],
        );
        Ok(())
    })
}

/// The prefilter does not check for room: the gate does, with its own reason and counter.
#[test]
fn a_full_table_is_the_gates_affair() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let gate = |_: &_| {
            Some(taskgate_compiler::EniLimits {
                connections: 1,
                isolated: false,
            })
        };
        test.set_with(web(), &gate)?;
        test.fixture.share(Shared::Denials, 1, 0);
        assert!(test.ingress(&to(TASK4, 443, flags::SYN))?);
        let second = ip(at(PEER4), at(TASK4), 6, &tcp(40001, 443, flags::SYN, b""));
        assert!(test.prefilter(Uplink::Routed, &second)?);
        assert!(!test.send(Direction::Ingress, 0, &second)?);
        assert!(
            !test.prefilter(Uplink::Routed, &to(TASK4, 22, flags::SYN))?,
            "dropped all the same"
        );
        test.assert_lines(
            "no room for its record",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes flags 2: ingress",
                "count task ingress no-rule 1",
                "count task ingress rule 1",
                "count task ingress task-connections-full 1",
                "denied task ingress tcp 10.9.0.5:443 10.0.1.7:40001 task-connections-full, 1 packets 40 bytes flags 2",
                "lost task flows 0 denials 1",
            ],
        );
        Ok(())
    })
}

/// On the trunk itself only a tag in metadata names a branch, and a frame without one is the host's. A tag in the data
/// comes from a sender that bypasses the host's VLAN links, with any number.
#[test]
fn frames_without_a_tag_on_the_trunk_are_the_hosts() -> Result<()> {
    on_host_and_in_kernel(|test| {
        with_branch(test)?;
        let trunk = 7;
        test.fixture.writer.control().set_trunk(Kernel::LINKS.start() + trunk);
        for way in [Direction::Egress, Direction::Ingress] {
            let syn = to(STRANGER4, 443, flags::SYN);
            let whole = test.send(way, trunk, &syn)?;
            let cut = test.send(way, trunk, &syn[..40])?;
            let asks = test.send(way, trunk, &arp(1, at(PEER4), at(TASK4)))?;
            let other = test.send(way, trunk, &ethernet(0x88cc, &[0; 60]))?;
            assert_eq!([whole, cut, asks, other], [true; 4], "{way:?}, {}", test.name);
            assert!(!test.send(way, trunk, &tagged(VLAN, &syn))?, "{way:?}, {}", test.name);
            assert!(!test.send(way, trunk, &tagged(0, &syn))?, "{way:?}, {}", test.name);
            assert!(!test.send(way, trunk - 1, &syn)?, "another link");
        }
        test.assert_lines(
            "and nobody's record",
            &[
                "count nobody egress host 4",
                "count nobody egress unknown-task 3",
                "count nobody ingress host 4",
                "count nobody ingress unknown-task 3",
            ],
        );
        Ok(())
    })
}

/// If the host has the branch's VLAN link, it would accept the frame for the branch's address, past the branch's gate.
#[test]
fn a_frame_without_a_tag_on_the_trunk_reaches_no_branch() -> Result<()> {
    on_host_and_in_kernel(|test| {
        with_branch(test)?;
        let trunk = 7;
        test.fixture.writer.control().set_trunk(Kernel::LINKS.start() + trunk);
        let six = ip(at(PEER6), at(TASK6), 6, &tcp(40000, 443, flags::SYN, b""));
        for frame in [&to(TASK4, 443, flags::SYN), &six] {
            assert!(!test.send(Direction::Ingress, trunk, frame)?, "{}", test.name);
            // Egress is not dropped: it may be the branch's path to the wire and back.
            assert!(test.send(Direction::Egress, trunk, frame)?, "{}", test.name);
        }
        // A task on a network device is behind its own gate.
        assert!(test.send(Direction::Ingress, trunk, &to(OTHER4, 443, flags::SYN))?);
        // Nor on the previous trunk.
        test.fixture.writer.control().set_trunk(Uplink::LINK);
        test.fixture
            .writer
            .control()
            .set_previous_trunk(Kernel::LINKS.start() + trunk);
        assert!(!test.send(Direction::Ingress, trunk, &to(TASK4, 443, flags::SYN))?);
        test.assert_lines(
            "and nobody's record",
            &[
                "count nobody egress host 2",
                "count nobody ingress host 1",
                "count nobody ingress not-for-task 3",
            ],
        );
        Ok(())
    })
}

/// Between two tasks of this host everything goes by their links.
#[test]
fn the_wire_does_not_speak_as_a_task_of_this_host() -> Result<()> {
    on_host_and_in_kernel(|test| {
        // Members of the group may send anything.
        let mut model = with_rules(&[(Protocol::All, "group:0")], &[]);
        model.enis.push(gated("other", &[OTHER4, "2001:db8:9::6"], &[0]));
        model
            .enis
            .push(testkit::fixture::model::member("elsewhere", &[PEER4], &[0]));
        test.set(model.clone())?;
        let from = |source: &str, flags| ip(at(source), at(TASK4), 6, &tcp(40000, 443, flags, b""));
        let syn = from(OTHER4, flags::SYN);
        let syn6 = ip(at("2001:db8:9::6"), at(TASK6), 6, &tcp(40000, 443, flags::SYN, b""));
        for frame in [&syn, &syn6] {
            assert!(!test.prefilter(Uplink::Routed, frame)?, "{}", test.name);
            assert!(!test.from_wire(frame)?, "{}", test.name);
            assert!(test.ingress(frame)?, "by its own link, {}", test.name);
        }
        // Nor as part of an existing connection.
        assert!(test.egress(&ip(at(TASK4), at(OTHER4), 6, &tcp(443, 40000, flags::SYN_ACK, b"")))?);
        let ack = from(OTHER4, flags::ACK);
        assert!(!test.prefilter(Uplink::Routed, &ack)?, "{}", test.name);
        assert!(!test.from_wire(&ack)?, "{}", test.name);
        assert!(test.ingress(&ack)?, "{}", test.name);
        // An ENI that is elsewhere speaks by the wire.
        assert!(test.prefilter(Uplink::Routed, &from(PEER4, flags::SYN))?);
        assert!(test.from_wire(&from(PEER4, flags::SYN))?);
        assert!(test.from_wire(&from(PEER4, flags::ACK))?);
        test.assert_lines(
            "each has its record",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 2 packets 80 bytes flags 2: ingress",
                "conn task tcp 10.9.0.5:443 10.9.0.6:40000 by web/ingress/1, egress 1 packets 40 bytes flags 18, ingress 2 packets 80 bytes flags 2: ingress replied confirmed local",
                "conn task tcp [2001:db8:9::5]:443 [2001:db8:9::6]:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 60 bytes flags 2: ingress local",
                "count task ingress rule 3",
                "count task ingress spoofed-source 6",
                "denied task ingress tcp 10.9.0.5:443 10.9.0.6:40000 spoofed-source, 4 packets 160 bytes flags 2",
                "denied task ingress tcp [2001:db8:9::5]:443 [2001:db8:9::6]:40000 spoofed-source, 2 packets 120 bytes flags 2",
            ],
        );
        // A task whose link is gone may be anywhere, and branches of the trunk meet on the wire.
        test.fixture
            .writer
            .remove_link(LinkId::device(Kernel::LINKS.start() + 1));
        assert!(test.from_wire(&syn)?, "{}", test.name);
        assert!(test.from_wire(&ack)?, "{}", test.name);
        test.set(model)?;
        test.fixture.bind(LinkId::branch(VLAN).get(), "other")?;
        assert!(test.from_wire(&syn)?, "{}", test.name);
        Ok(())
    })
}
