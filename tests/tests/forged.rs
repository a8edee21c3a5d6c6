//! Forged packets of strangers on the wire: they close no connection, establish none, and leave a record.

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::{Direction, tables::state};
use testkit::{
    Action, Capture, Config, E2eTest, MapDump, at,
    fixture::frames::flags,
    ledger::Flow,
    netns::until,
    traffic::{Client, TcpEcho, UdpPeer, inject, segment_packet, udp_packet},
};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
const OUTSIDE: [&str; 2] = ["10.99.0.2", "fd99::2"];

/// A task that may open connections to the outside, and to which nothing comes but as their part.
fn client(config: Config) -> Config {
    config
        .group("client", "egress: [{ protocol: all, to: [10.99.0.0/24, fd99::/64] }]")
        .task("task-1", &TASK, &["client"])
}

/// A task whose service is open to all peers.
fn server(config: Config) -> Config {
    config
        .group("server", "ingress: [{ protocol: all, from: any }], egress: []")
        .task("task-1", &TASK, &["server"])
}

/// Waits until the only TCP connection is in a state that satisfies `enough`.
fn await_state(held: &MapDump, what: &str, enough: impl Fn(u16) -> bool) -> Result<()> {
    until(what, || {
        let states = held.tcp_states()?;
        ensure!(states.len() <= 1, "{} connections", states.len());
        Ok(states.first().is_some_and(|(state, _)| enough(*state)))
    })
}

/// A RST or FIN forged without seeing the connection: both ends and the gate ignore it. One from the server's own stack
/// closes the connection.
#[test]
fn a_forged_end_does_not_cut_an_idle_connection_and_a_real_one_closes_it() -> Result<()> {
    for (family, bytes) in [(0, 100), (0, 1_000_000), (1, 100)] {
        let test = E2eTest::start_with(Some(600), client)?;
        let held = MapDump::of(&test.daemon)?;
        let outside = &test.topology.outside;
        let echo = TcpEcho::start(outside, 7)?;
        let mut live = Client::connect(test.task("task-1")?, at(OUTSIDE[family], 7))?;
        live.echo(bytes)?;
        for closes in [flags::RST, flags::RST | flags::ACK, flags::FIN | flags::ACK] {
            let known = held.tcp_states()?;
            let [(_, [_, next])] = known[..] else {
                panic!("{known:?}");
            };
            // The lower 16 bits are never the expected ones, whatever the upper ones are.
            for (at, wrong) in [1, 77, 0x7fff, 0x8000, 0xffff].into_iter().enumerate() {
                let number = (at as u32 * 0x2b5d) << 16 | u32::from(next.wrapping_add(wrong));
                inject(outside, &segment_packet(live.flow().back(), closes, number, number)?)?;
            }
            held.age(14)?;
            echo.say(b"server first")?;
            live.expect(b"server first")?;
        }
        let flow = live.flow();
        echo.abort()?;
        await_state(&held, "the server's RST closes it", |state| {
            state & state::RESET_INGRESS != 0
        })?;
        held.age(11)?;
        inject(outside, &segment_packet(flow.back(), flags::ACK, 1, 1)?)?;
        held.await_counted(Direction::Ingress, "no-rule", &[1])?;
        drop(live);
        let expected = test.denied_in(&[("outside", "task-1")])?;
        test.finish(&expected)?;
    }
    Ok(())
}

/// A connection closed by both sides ends in seconds, one closed by one side only in minutes.
#[test]
fn real_stacks_close_what_they_close() -> Result<()> {
    for server in OUTSIDE {
        let test = E2eTest::start_with(Some(600), client)?;
        let held = MapDump::of(&test.daemon)?;
        let _echo = TcpEcho::start(&test.topology.outside, 7)?;
        let mut live = Client::connect(test.task("task-1")?, at(server, 7))?;
        await_state(&held, "hands are shaken", |state| state & state::CONFIRMED != 0)?;
        live.echo(300_000)?;
        live.finish()?;
        await_state(&held, "both have sent a FIN", |state| {
            state & (state::FIN_EGRESS | state::FIN_INGRESS) == state::FIN_EGRESS | state::FIN_INGRESS
        })?;
        let expected = test.passed()?;
        test.finish(&expected)?;
    }
    Ok(())
}

/// A server whose client is silent sends first, days later.
#[test]
fn a_silent_connection_is_there_when_its_server_speaks() -> Result<()> {
    let test = E2eTest::start_with(Some(600), client)?;
    let held = MapDump::of(&test.daemon)?;
    let echo = TcpEcho::start(&test.topology.outside, 7)?;
    let mut live = Client::connect(test.task("task-1")?, at(OUTSIDE[0], 7))?;
    await_state(&held, "hands are shaken", |state| state & state::CONFIRMED != 0)?;
    until("it is accepted", || Ok(echo.accepted() == 1))?;
    held.age(431_990)?;
    echo.say(b"server first")?;
    live.expect(b"server first")?;
    live.finish()?;
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

/// SYNs from unused addresses, repeated and with other sequence numbers, and guessed acknowledgements: the answers of the
/// server's stack, a bare ACK among them, establish no connection.
#[test]
fn a_flood_of_syns_makes_no_established_connection() -> Result<()> {
    const PEERS: u16 = 40;
    const NOBODY: &str = "10.99.0.77";
    let test = E2eTest::start_with(Some(600), server)?;
    let held = MapDump::of(&test.daemon)?;
    let (host, outside) = (&test.topology.host, &test.topology.outside);
    let _echo = TcpEcho::start(test.task("task-1")?, 80)?;
    // The server's answers to the unused address are sent, but get no reply.
    let shown = outside.output("ip", &["-o", "link", "show", "dev", "eth0"])?;
    let mac = shown
        .split_once("link/ether ")
        .and_then(|(_, rest)| rest.split(' ').next());
    host.ip(&format!(
        "neigh add {NOBODY} lladdr {} dev wire",
        mac.unwrap_or_default()
    ))?;
    let answers = Capture::tap(outside, "eth0")?;
    let send = |flags, number, guess| -> Result<()> {
        (0..PEERS).try_for_each(|peer| {
            let flow = Flow::tcp(at(NOBODY, 20_000 + peer), at(TASK[0], 80));
            inject(outside, &segment_packet(flow, flags, number, guess)?)
        })
    };
    send(flags::SYN, 1, 0)?;
    answers.await_count(&[0, 0, 0, 2, 0x60, flags::SYN_ACK], usize::from(PEERS))?;
    send(flags::SYN, 0x4000_0000, 0)?;
    answers.await_count(&[0, 0, 0, 2, 0x50, flags::ACK], usize::from(PEERS))?;
    send(flags::SYN, 1, 0)?;
    send(flags::ACK, 2, 0)?;
    let states = held.tcp_states()?;
    assert_eq!(states.len(), usize::from(PEERS));
    for (state, _) in states {
        assert_eq!(state & (state::REPLIED | state::CONFIRMED), state::REPLIED);
    }
    // A client that receives the SYN-ACK establishes its connection at once.
    let live = Client::connect(outside, at(TASK[0], 80))?;
    until("hands are shaken", || {
        let states = held.tcp_states()?;
        Ok(states.iter().filter(|(state, _)| state & state::CONFIRMED != 0).count() == 1)
    })?;
    live.finish()?;
    Ok(())
}

/// Addresses and ports prove nothing: packets from the metadata service's address, and packets between two peers on
/// DHCP's ports, are recorded like any other.
#[test]
fn nobody_hides_behind_what_leaves_no_record() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "all",
                "ingress: [{ protocol: all, from: any }], egress: [{ protocol: all, to: any }]",
            )
            .task("task-1", &TASK, &["all"])
    })?;
    let (task, outside) = (test.task("task-1")?, &test.topology.outside);
    let listens = UdpPeer::bind(task, &at(TASK[0], 9999).to_string())?;
    for service in ["169.254.169.254", "169.254.169.253", "169.254.169.123"] {
        let flow = Flow::udp(at(service, 53), listens.address());
        inject(outside, &udp_packet(flow, b"hidden")?)?;
        listens.expect(b"hidden")?;
        test.daemon
            .await_ledger(|ledger| ledger.get("task-1", flow, Action::Accept).packets == 1)?;
    }
    for (here, there) in [(68, 67), (67, 68), (546, 547)] {
        let family = usize::from(here == 546);
        let asks = UdpPeer::bind(task, &at(TASK[family], here).to_string())?;
        let answers = UdpPeer::bind(outside, &at(OUTSIDE[family], there).to_string())?;
        let flow = asks.converse(&answers, 2)?;
        test.daemon.await_ledger(|ledger| {
            [flow, flow.back()]
                .into_iter()
                .all(|flow| ledger.get("task-1", flow, Action::Accept).packets == 2)
        })?;
    }
    Ok(())
}
