//! Everything that the data path keeps, as values to compare and as lines to read.

use std::{collections::BTreeMap, net::SocketAddr};

use taskgate::dataplane::flow::{ConnState, DenialState, FlowKey, UsageState};
use taskgate_ebpf::abi::{
    Direction, Outcome, Pass, Reason,
    tables::{RULE_EXEMPT, state, window},
};

use super::Scene;

/// All tables at one moment. What is zero is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Tracked connections.
    pub conns: BTreeMap<FlowKey, ConnState>,
    /// Denied flows.
    pub denials: BTreeMap<FlowKey, DenialState>,
    /// Packets by slot, direction and the outcome's number.
    pub counters: BTreeMap<(u16, Direction, u8), u64>,
    /// What slots use.
    pub usage: BTreeMap<u16, UsageState>,
}

/// The name of an outcome's number.
pub fn outcome_name(number: u8) -> &'static str {
    Pass::ALL
        .into_iter()
        .map(Outcome::Pass)
        .chain(Reason::ALL.into_iter().map(Outcome::Drop))
        .find(|outcome| outcome.number() == number)
        .map_or("unknown", Outcome::name)
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        other => other.to_string(),
    }
}

fn flow(key: &FlowKey, protocol: u8) -> String {
    let (local, remote) = key.ports();
    if matches!(protocol, 6 | 17) {
        let [local, remote] = [(key.local(), local), (key.remote(), remote)].map(SocketAddr::from);
        format!("{} {local} {remote}", protocol_name(protocol))
    } else {
        let named = if (local, remote) == (0, 0) {
            String::new()
        } else {
            format!(" {local:x}:{remote:04x}")
        };
        format!("{} {} {}{named}", protocol_name(protocol), key.local(), key.remote())
    }
}

/// The bits of a connection's state.
fn bits(word: u16) -> String {
    [
        (state::INGRESS, "ingress"),
        (state::UNTRACKED, "untracked"),
        (state::REPLIED, "replied"),
        (state::CONFIRMED, "confirmed"),
        (state::ANSWERED, "answered"),
        (state::FIN_EGRESS, "fin-egress"),
        (state::FIN_INGRESS, "fin-ingress"),
        (state::RESET_EGRESS, "reset-egress"),
        (state::RESET_INGRESS, "reset-ingress"),
        (state::LOCAL, "local"),
        (state::GROUP, "group"),
        (state::POOL, "pool"),
    ]
    .into_iter()
    .filter(|(bit, _)| word & bit != 0)
    .fold(String::new(), |names, (_, name)| names + " " + name)
}

/// TCP flags of the current window, as flow records have them.
fn seen(windows: [u32; 2], number: u32, direction: Direction) -> String {
    match window::tcp_flags(windows[(number & 1) as usize], number, direction) {
        0 => String::new(),
        flags => format!(" flags {flags}"),
    }
}

impl State {
    /// The state in lines, sorted: counters, connections, denied flows, and what was lost.
    pub fn lines(&self, scene: &Scene<'_>) -> Vec<String> {
        let eni = |slot: u16| match slot {
            0 => "nobody",
            slot => scene.writer.eni(slot).unwrap_or("?"),
        };
        let number = scene.window;
        let counters = self.counters.iter().map(|((slot, direction, outcome), packets)| {
            let (direction, outcome) = (direction_name(*direction), outcome_name(*outcome));
            format!("count {} {direction} {outcome} {packets}", eni(*slot))
        });
        let conns = self.conns.iter().map(|(key, conn)| {
            let rule = match conn.rule {
                RULE_EXEMPT => "exempt",
                rule => scene.book.name(rule).map_or("?", |name| &name.rule),
            };
            let [egress, ingress] = [Direction::Egress, Direction::Ingress].map(|direction| {
                let count = conn.totals[direction.index()];
                let flags = seen(conn.windows, number, direction);
                format!("{} packets {} bytes{flags}", count.packets, count.bytes)
            });
            format!(
                "conn {} {} by {rule}, egress {egress}, ingress {ingress}:{}",
                eni(conn.slot),
                flow(key, key.conn_protocol()),
                bits(conn.state)
            )
        });
        let denials = self.denials.iter().map(|(key, denial)| {
            let (slot, protocol, direction, reason) = key.denial_parts();
            let (count, flags) = (denial.totals, seen(denial.windows, number, direction));
            format!(
                "denied {} {} {} {}, {} packets {} bytes{flags}",
                eni(slot),
                direction_name(direction),
                flow(key, protocol),
                outcome_name(reason),
                count.packets,
                count.bytes
            )
        });
        let lost = self.usage.iter().filter_map(|(slot, usage)| {
            let UsageState {
                flows_lost,
                denials_lost,
                ..
            } = usage;
            (flows_lost + denials_lost > 0)
                .then(|| format!("lost {} flows {flows_lost} denials {denials_lost}", eni(*slot)))
        });
        let mut lines: Vec<_> = counters.chain(conns).chain(denials).chain(lost).collect();
        lines.sort();
        lines
    }
}
