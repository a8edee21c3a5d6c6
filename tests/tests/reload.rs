//! Reloads: their effects, also on live connections, and the state that they leave unchanged.

use anyhow::Result;
use testkit::{
    Config, Count, E2eTest, OUTSIDE_V4, Reload, at,
    e2e::flow_to,
    ip,
    kernel::gates,
    ledger::Action,
    traffic::{Answer, Client, Pinger, TcpEcho, UdpPeer, probe, probe_for, try_connect},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const WORKER: &str = "10.88.0.30";

const DB_FROM_WEB: &str = "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []";

fn shop(config: Config) -> Config {
    config
        .group("web", "")
        .group("worker", "")
        .group("db", DB_FROM_WEB)
        .task("web-1", &[WEB], &["web"])
        .task("db-1", &[DB], &["db"])
        .task("worker-1", &[WORKER], &["worker"])
}

/// AWS: SG-PEER-5, SG-RULE-6, SG-TRACK-5
#[test]
fn members_join_and_leave_a_group_that_a_rule_names() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    assert!(try_connect(test.task("worker-1")?, at(DB, 5432))?.is_none());

    test.reload(|config| config.task("worker-1", &[WORKER], &["worker", "web"]))?;
    let mut live = Client::connect(test.task("worker-1")?, at(DB, 5432))?;
    live.echo(1000)?;

    test.reload(|config| config.task("worker-1", &[WORKER], &["worker"]))?;
    assert!(try_connect(test.task("worker-1")?, at(DB, 5432))?.is_none());
    // The connection was tracked, so it lives on without a rule.
    live.echo(1000)?;
    live.finish()?;
    // The reload did not affect the task that stayed in the group.
    Client::connect(test.task("web-1")?, at(DB, 5432))?.finish()?;
    let expected = test.denied_in(&[("worker-1", "db-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-PEER-3, SG-PEER-5
#[test]
fn a_member_elsewhere_counts_like_one_here() -> Result<()> {
    let mut test = E2eTest::start(|config| shop(config).member("10.99.0.2", &["web"]))?;
    assert_eq!(
        probe_for(&test.topology.outside, at(DB, 5432), Answer::Refused)?,
        Answer::Refused
    );
    test.reload(|config| config.member("10.99.0.2", &["worker"]))?;
    assert_eq!(probe(&test.topology.outside, at(DB, 5432))?, Answer::Silence);
    let expected = test.denied_in(&[("outside", "db-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-TRACK-4, SG-TRACK-6
#[test]
fn an_untracked_connection_ends_with_its_rule() -> Result<()> {
    let open = "ingress: [{ protocol: tcp, ports: 80, from: any }]";
    let mut test = E2eTest::start(|config| config.group("http", open).task("web-1", &[WEB], &["http"]))?;
    let echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(1000)?;

    test.reload(|config| config.group("http", ""))?;
    assert!(!live.echoes()?, "each packet of an untracked connection needs a rule");
    assert!(try_connect(&test.topology.outside, at(WEB, 80))?.is_none());
    let flow = live.abort()?;
    echo.abort()?;
    let lost = test.not_let_in("outside", "web-1")?;
    let cut = lost.iter().find(|(of, _)| *of == flow).map(|(_, count)| count.packets);
    assert!(cut.unwrap_or_default() > 0, "{lost:?}");
    // Later packets of the server belong to the same connection.
    let answered = test.outside.received(flow.back())?;
    let expected = test
        .denied_in(&[("outside", "web-1")])?
        .cut("web-1", flow.back(), answered);
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-TRACK-4, SG-TRACK-5
#[test]
fn the_same_connection_lives_on_where_it_is_tracked() -> Result<()> {
    for (case, rules) in [
        (
            "the peer is not everybody",
            "ingress: [{ protocol: tcp, ports: 80, from: [10.99.0.0/24] }]",
        ),
        (
            "the other direction is not open",
            "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: [{ protocol: tcp, ports: 443, to: any }]",
        ),
        (
            "a narrow rule allows it as well as the open one",
            "ingress: [{ protocol: tcp, ports: 80, from: any }, { protocol: tcp, ports: 80, from: [10.99.0.2] }]",
        ),
    ] {
        let mut test = E2eTest::start(|config| config.group("http", rules).task("web-1", &[WEB], &["http"]))?;
        let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
        let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
        live.echo(1000)?;
        test.reload(|config| config.group("http", "egress: []"))?;
        live.echo(1000)?;
        live.finish()?;
        assert!(try_connect(&test.topology.outside, at(WEB, 80))?.is_none(), "{case}");
        let expected = test.denied_in(&[("outside", "web-1")])?;
        test.finish(&expected)?;
    }
    Ok(())
}

/// AWS: SG-TRACK-2
#[test]
fn icmp_is_tracked_even_where_rules_are_wide_open() -> Result<()> {
    let open = "ingress: [{ protocol: all, from: any }]";
    let mut test = E2eTest::start(|config| config.group("open", open).task("web-1", &[WEB], &["open"]))?;
    let server = UdpPeer::bind(test.task("web-1")?, "10.88.0.10:53")?;
    let client = UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?;
    let mut live = Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(WEB))?;
    client.converse(&server, 2)?;
    live.echo()?;

    test.reload(|config| config.group("open", ""))?;
    // The same echo exchange continues, a new one is denied, and so is UDP, which was untracked.
    live.echo()?;
    assert!(!Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(WEB))?.echoes()?);
    client.send(server.address(), b"request")?;
    test.await_denials("web-1", 2)?;
    assert!(server.is_silent()?);
    let expected = test.denied_in(&[("outside", "web-1")])?;
    assert_eq!(expected.total("web-1", Action::Reject), Count::new(2, 84 + 35));
    test.finish(&expected)?;
    Ok(())
}

/// AWS has no counterpart of `on-rule-removal: cut`.
#[test]
fn a_tracked_connection_is_cut_where_the_settings_say_so() -> Result<()> {
    let mut test = E2eTest::start(|config| shop(config).with("settings: { on-rule-removal: cut }"))?;
    let echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut cut = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    cut.echo(1000)?;
    test.reload(|config| config.group("web", "").task("worker-1", &[WORKER], &["web"]))?;
    cut.echo(1000)?;
    test.reload(|config| config.group("db", "egress: []"))?;
    assert!(!cut.echoes()?);
    let flow = cut.abort()?;
    echo.abort()?;
    // db may retransmit its last answer, since web's acknowledgement is denied: the retransmission is cut as well.
    let answered = test.wire("web-1")?.received(flow.back())?;
    let expected = test.denied_in(&[("web-1", "db-1")])?.cut("db-1", flow.back(), answered);
    assert_ne!(expected.get("db-1", flow, Action::Reject), Count::default());
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-PEER-2
#[test]
fn a_prefix_list_means_its_entries_of_now() -> Result<()> {
    let mut test = E2eTest::start(|config| {
        config
            .prefix_list("corp", &["10.77.0.0/16", "10.99.0.0/24"])
            .group(
                "http",
                "ingress: [{ protocol: tcp, ports: 80, from: [prefix-list:corp] }], egress: []",
            )
            .task("web-1", &[WEB], &["http"])
    })?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(100)?;
    test.reload(|config| config.prefix_list("corp", &["10.77.0.0/16"]))?;
    assert!(try_connect(&test.topology.outside, at(WEB, 80))?.is_none());
    live.echo(100)?;
    live.finish()?;
    test.reload(|config| config.prefix_list("corp", &["10.77.0.0/16", "10.99.0.2/32"]))?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn a_bad_configuration_changes_nothing_and_says_what_is_wrong_and_where() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    let good = test.config.to_string();
    for (bad, words) in [
        (
            good.replace("from: [\"group:web\"]", "")
                .replace("group:web", "group:wbe"),
            &["taskgate.yaml:", "wbe"][..],
        ),
        (
            good.replace("ports: 5432", "ports: 70000"),
            &["taskgate.yaml:", "70000"],
        ),
        (
            good.replace("taskgate: v1", "taskgate: v1\nsurprise: 1"),
            &["taskgate.yaml:2:", "surprise"],
        ),
        (String::from("taskgate: [v1"), &["taskgate.yaml"]),
        (good.replace("10.88.0.30", "10.88.0.20"), &["10.88.0.20"]),
    ] {
        assert_ne!(bad, good);
        let Reload::Refused(why) = test.daemon.reload_text(&bad)? else {
            panic!("this was taken:\n{bad}");
        };
        for word in words {
            assert!(why.contains(word), "`{word}` is missing in:\n{why}");
        }
        // The old configuration is in force, unchanged.
        live.echo(100)?;
        Client::connect(test.task("web-1")?, at(DB, 5432))?.finish()?;
        assert_eq!(probe(test.task("worker-1")?, at(DB, 5432))?, Answer::Silence);
    }
    live.finish()?;
    // The next valid configuration is accepted.
    test.reload(|config| config.group("db", "ingress: [{ protocol: tcp, ports: 5432, from: any }]"))?;
    Client::connect(test.task("worker-1")?, at(DB, 5432))?.finish()?;
    let expected = test.denied_in(&[("worker-1", "db-1")])?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn a_task_is_added_while_others_go_on() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    live.echo(100)?;
    test.reload(|config| config.task("web-2", &["10.88.0.11"], &["web"]))?;
    let mut new = Client::connect(test.task("web-2")?, at(DB, 5432))?;
    new.echo(100)?;
    live.echo(100)?;
    new.finish()?;
    live.finish()?;
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn a_task_that_taskgate_made_goes_when_it_is_named_no_more() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    Client::connect(test.task("web-1")?, at(DB, 5432))?.finish()?;
    let (links, namespaces) = (test.topology.host.links()?.len(), test.topology.namespaces()?.len());
    let expected = test.passed()?;
    test.reload(|config| config.without_task("worker-1"))?;
    assert_eq!(test.topology.host.links()?.len(), links - 1);
    assert_eq!(test.topology.namespaces()?.len(), namespaces - 1);
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn a_device_that_no_task_has_any_more_passes_nothing() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let old = test.topology.device("tg-old", &["10.88.0.40"], true)?;
    test.reload(|config| config.device_task("old-1", "tg-old", &["10.88.0.40"], &["web"]))?;
    let wire = testkit::Wire::tap(&old, "eth0")?;
    let echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(&old, at(DB, 5432))?;
    live.echo(100)?;

    test.reload(|config| config.without_task("old-1"))?;
    assert_eq!(gates(&test.topology.host, "tg-old")?, (1, 1), "the gate stays");
    // Neither new nor tracked connections get through, in either direction.
    let (reached, came) = (
        test.wire("db-1")?.received(live.flow())?,
        wire.received(live.flow().back())?,
    );
    assert!(!live.echoes()?);
    assert!(try_connect(&old, at(DB, 5432))?.is_none());
    assert!(try_connect(&test.topology.outside, at("10.88.0.40", 80))?.is_none());
    assert_eq!(test.wire("db-1")?.received(live.flow())?, reached);
    assert_eq!(wire.received(live.flow().back())?, came);
    assert!(flow_to(&test.outside, at("10.88.0.40", 80)).is_ok(), "it was asked");

    let dead = live.abort()?;
    echo.abort()?;

    // With a task again, the device is like any other.
    test.reload(|config| config.device_task("old-1", "tg-old", &["10.88.0.40"], &["web"]))?;
    let again = testkit::Wire::tap(&old, "eth0")?;
    let flow = Client::connect(&old, at(DB, 5432))?.finish()?;
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    for (flow, count) in [(flow, again.sent(flow)?), (flow.back(), again.received(flow.back())?)] {
        assert_eq!(recorded.get("old-1", flow, Action::Accept), count);
    }
    // The records of the other connection have the packets that got through before.
    for (flow, count) in [(dead, reached), (dead.back(), came)] {
        assert_eq!(recorded.get("old-1", flow, Action::Accept), count);
    }
    assert_eq!(
        recorded.total("old-1", Action::Reject),
        Count::default(),
        "no task, no record"
    );
    Ok(())
}
