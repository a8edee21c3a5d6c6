//! Effects of a configuration change on existing connections.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, LinkId};
use taskgate_model::OnRuleRemoval;
use testkit::fixture::{frames::*, model::gated, on_host_and_in_kernel};

use super::*;

const ANY: [(Protocol, &str); 1] = [(Protocol::All, "0.0.0.0/0")];

/// AWS: SG-TRACK-5, SG-TRACK-6
#[test]
fn a_tracked_connection_outlives_its_rule_and_an_untracked_one_does_not() -> Result<()> {
    on_host_and_in_kernel(|test| {
        // By a narrow rule, and by one open to any with all egress allowed.
        let tracked = with_rules(&[(tcp_to(443, 443), "10.0.1.0/24")], &ANY);
        let untracked = with_rules(&[(tcp_to(443, 443), "0.0.0.0/0")], &ANY);
        for (name, model, lives) in [("tracked", tracked, true), ("untracked", untracked, false)] {
            test.set(model)?;
            assert!(test.ingress(&in4(flags::SYN))?);
            assert!(test.egress(&out4(flags::SYN_ACK))?);
            test.change(with_rules(&[], &[]))?;
            assert_eq!(test.ingress(&in4(flags::ACK))?, lives, "{name}, {}", test.name);
            assert_eq!(test.egress(&out4(flags::ACK))?, lives, "{name}, {}", test.name);
        }
        test.assert_lines(
            "the untracked one",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 1 packets 40 bytes flags 18, ingress 1 packets 40 bytes flags 2: ingress untracked replied",
                "count task egress no-rule 1",
                "count task ingress no-rule 1",
                "count task ingress rule 1",
                "denied task egress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes",
                "denied task ingress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes",
            ],
        );
        Ok(())
    })
}

#[test]
fn a_connection_that_another_rule_allows_now_goes_on_under_it() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[(tcp_to(443, 443), "0.0.0.0/0")], &ANY))?;
        for frame in [in4(flags::SYN), in4(flags::ACK)] {
            assert!(test.ingress(&frame)?);
            assert!(test.egress(&out4(flags::ACK))?);
        }
        test.change(with_rules(
            &[(tcp_to(22, 22), "0.0.0.0/0"), (tcp_to(443, 443), "10.0.1.0/24")],
            &[],
        ))?;
        // The task sends first: its packet is judged as part of the connection that the peer opened.
        assert!(test.egress(&out4(flags::ACK))?);
        assert!(test.ingress(&in4(flags::ACK))?);
        test.assert_lines(
            "a connection",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/2, egress 3 packets 120 bytes, ingress 3 packets 120 bytes flags 2: ingress replied confirmed",
                "count task egress rule 1",
                "count task ingress rule 1",
            ],
        );
        Ok(())
    })
}

#[test]
fn on_rule_removal_cut_judges_tracked_connections_too() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let cutting = |mut model: Model| {
            model.settings.on_rule_removal = OnRuleRemoval::Cut;
            model
        };
        test.set(cutting(web()))?;
        assert!(test.ingress(&in4(flags::SYN))?);
        test.change(cutting(web()))?;
        assert!(test.egress(&out4(flags::SYN_ACK))?, "its rule still stands");
        test.change(cutting(with_rules(&[], &[])))?;
        assert!(!test.egress(&out4(flags::ACK))?);
        assert!(!test.ingress(&in4(flags::ACK))?);
        test.change(cutting(web()))?;
        assert!(test.egress(&out4(flags::ACK))?, "and stands again");
        Ok(())
    })
}

#[test]
fn a_raised_epoch_makes_connections_old_and_their_totals_stay() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert!(test.ingress(&in4(flags::SYN))?);
        assert!(test.egress(&out4(flags::SYN_ACK))?);
        let slot = test.fixture.slot("task")?;
        test.fixture.writer.bump_epoch(slot)?;
        assert!(!test.egress(&out4(flags::ACK))?);
        assert!(test.ingress(&in4(flags::ACK))?, "by its rule");
        assert!(test.egress(&out4(flags::ACK))?);
        test.assert_lines(
            "the same entry",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 2 packets 80 bytes flags 18, ingress 2 packets 80 bytes flags 2: ingress replied",
                "count task egress no-rule 1",
                "count task ingress rule 2",
                "denied task egress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes",
            ],
        );
        Ok(())
    })
}

/// The link's number, the address and the ports are given again to another task.
#[test]
fn a_new_task_inherits_no_connection() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert!(test.ingress(&in4(flags::SYN))?);
        test.fixture.writer.remove_link(LinkId::device(101));
        assert!(!test.egress(&out4(flags::SYN_ACK))?, "the link is nobody's");
        let mut other = web();
        other.enis = vec![gated("other", &[TASK4, TASK6], &[0])];
        test.change(other)?;
        test.fixture.bind(101, "other")?;
        assert!(!test.egress(&out4(flags::SYN_ACK))?);
        assert!(test.ingress(&in4(flags::SYN))?);
        let state = test.path.state(test.fixture.highest)?;
        let used: Vec<_> = state
            .usage
            .iter()
            .map(|(slot, usage)| (*slot, usage.conns.total()))
            .collect();
        assert_eq!(used, [(2, 1)], "the entry counts for the new one alone, {}", test.name);
        test.assert_lines(
            "another task",
            &[
                "conn other tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 2 packets 80 bytes flags 2: ingress",
                "count nobody egress unknown-task 1",
                "count other egress no-rule 1",
                "count other ingress rule 1",
                "count task ingress rule 1",
                "denied other egress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes flags 18",
            ],
        );
        Ok(())
    })
}

#[test]
fn members_of_a_group_come_and_go() -> Result<()> {
    use testkit::fixture::model::member;
    on_host_and_in_kernel(|test| {
        let with_members = |addresses: &[&str]| {
            let mut model = model(
                vec![
                    group("web", &[(tcp_to(443, 443), "group:1")], &[]),
                    group("alb", &[], &[]),
                ],
                vec![task()],
            );
            model.enis.push(member("alb-1", addresses, &[1]));
            model
        };
        test.set(with_members(&["10.0.9.9"]))?;
        assert!(!test.ingress(&in4(flags::SYN))?);
        test.change(with_members(&["10.0.9.9", PEER4]))?;
        assert!(test.ingress(&in4(flags::SYN))?);
        test.change(with_members(&["10.0.9.9"]))?;
        assert!(test.egress(&out4(flags::SYN_ACK))?, "a tracked connection lives on");
        assert!(!test.send(
            Direction::Ingress,
            0,
            &ip(at(PEER4), at(TASK4), 6, &tcp(40001, 443, flags::SYN, b""))
        )?);
        Ok(())
    })
}
