//! The oracle's state, compared with the tables.

use std::collections::BTreeMap;

use taskgate_compiler::RuleIds;
use taskgate_ebpf::abi::{
    Direction, LinkId,
    tables::{KeyTag, RULE_EXEMPT, state, window},
};
use taskgate_tables::{ConnState, FlowKey, UsageState, Used};

use super::oracle::{Entry, Name, Oracle, What};
use testkit::fixture::{TableState, outcome_name};

/// The table key of a connection's name, as the tables' documentation defines it.
fn conn_key(name: &Name) -> FlowKey {
    let word = |upper: u16, lower: u16| u32::from(upper) << 16 | u32::from(lower);
    let ports = match name.what {
        What::Ports(local, remote) => word(local, remote),
        What::Asked(identifier, kind, asker) => word(identifier, 0xff00 | u16::from(kind & 0x1f) << 1 | asker as u16),
        What::Message(direction, kind, code) => word(direction as u16, u16::from(kind) << 8 | u16::from(code)),
        What::Pair => 0,
    };
    let (local, remote) = name.addresses;
    FlowKey::new(
        local,
        remote,
        ports,
        KeyTag::of_conn(LinkId::from_number(name.link), name.protocol),
    )
}

/// Whether the flags agree: those of the last window that had a packet, and of the window before.
fn same_windows(windows: &BTreeMap<u32, [u8; 2]>, words: [u32; 2]) -> bool {
    let Some((last, _)) = windows.last_key_value() else {
        return true;
    };
    [*last, last.wrapping_sub(1)].into_iter().all(|number| {
        let read = [Direction::Egress, Direction::Ingress]
            .map(|direction| window::tcp_flags(words[(number & 1) as usize], number, direction));
        read == windows.get(&number).copied().unwrap_or_default()
    })
}

fn bits(entry: &Entry, is_tcp: bool) -> u16 {
    let bit = |set: bool, bit: u16| if set { bit } else { 0 };
    bit(entry.opener == Direction::Ingress, state::INGRESS)
        | bit(entry.untracked, state::UNTRACKED)
        | bit(entry.local, state::LOCAL)
        | bit(entry.to_group, state::GROUP)
        | if is_tcp {
            let tcp = &entry.tcp;
            bit(tcp.answered, state::REPLIED)
                | bit(tcp.established, state::CONFIRMED)
                | bit(tcp.places.contains_key(&entry.opener.opposite()), state::KNOWN)
                | bit(tcp.farewells.contains(&Direction::Egress), state::FIN_EGRESS)
                | bit(tcp.farewells.contains(&Direction::Ingress), state::FIN_INGRESS)
                | bit(tcp.broken.contains(&Direction::Egress), state::RESET_EGRESS)
                | bit(tcp.broken.contains(&Direction::Ingress), state::RESET_INGRESS)
        } else {
            bit(entry.turns >= 1, state::REPLIED)
                | bit(entry.turns >= 2, state::CONFIRMED)
                | bit(entry.turns >= 3, state::ANSWERED)
        }
}

/// The first difference between the tables and the oracle's state.
pub(super) fn differs(oracle: &Oracle, rule_ids: &RuleIds, state: &TableState) -> Option<String> {
    if oracle.counters != state.counters {
        let name = |counters: &BTreeMap<(u16, Direction, u8), u64>| -> Vec<String> {
            let lines = counters.iter();
            lines
                .map(|((slot, way, outcome), count)| format!("{slot} {way:?} {}: {count}", outcome_name(*outcome)))
                .collect()
        };
        return Some(format!(
            "counters: {:?}, oracle: {:?}",
            name(&state.counters),
            name(&oracle.counters)
        ));
    }
    for (name, entry) in &oracle.conns {
        let Some(conn) = state.conns.get(&conn_key(name)) else {
            return Some(format!("no entry {name:?} {entry:?}"));
        };
        let rule = (conn.rule != RULE_EXEMPT).then(|| {
            let rule = rule_ids.name(conn.rule);
            rule.map_or_else(Default::default, |rule| (rule.group.clone(), rule.rule.clone()))
        });
        let expected = ConnState {
            totals: entry.totals,
            last: entry.last,
            epoch: entry.epoch,
            generation: entry.generation as u16,
            rule: conn.rule,
            slot: entry.slot,
            code: conn.code,
            state: bits(entry, name.protocol == 6) | if entry.pooled { state::POOL } else { 0 },
            next: [Direction::Egress, Direction::Ingress].map(|side| {
                let unknown = conn.next[side.index()];
                entry.tcp.places.get(&side).copied().unwrap_or(unknown)
            }),
            windows: conn.windows,
        };
        if *conn != expected || rule != entry.rule || !same_windows(&entry.windows, conn.windows) {
            return Some(format!("{name:?}: {conn:?} by {rule:?}, oracle: {entry:?}"));
        }
    }
    if state.conns.len() != oracle.conns.len() {
        return Some(format!(
            "{} connections, oracle: {}",
            state.conns.len(),
            oracle.conns.len()
        ));
    }
    for (denied, denial) in &oracle.denials {
        let (slot, direction, local, remote, protocol, ports, reason) = *denied;
        let ports = u32::from(ports.0) << 16 | u32::from(ports.1);
        let tag = KeyTag::of_denial(slot, protocol, direction, reason);
        let Some(found) = state.denials.get(&FlowKey::new(local, remote, ports, tag)) else {
            return Some(format!("no denial {denied:?} {denial:?}"));
        };
        let same = found.totals == denial.totals && found.last == denial.last;
        if !same || !same_windows(&denial.windows, found.windows) {
            return Some(format!("denial {denied:?}: {found:?}, oracle: {denial:?}"));
        }
    }
    if state.denials.len() != oracle.denials.len() {
        return Some(format!(
            "{} denied flows, oracle: {}",
            state.denials.len(),
            oracle.denials.len()
        ));
    }
    usage_differs(oracle, state)
}

fn usage_differs(oracle: &Oracle, state: &TableState) -> Option<String> {
    let mut expected: BTreeMap<u16, UsageState> = BTreeMap::new();
    let mut charge = |of: fn(&mut UsageState) -> &mut Used, (slot, pooled): (u16, bool)| {
        if pooled {
            of(expected.entry(slot).or_default()).pool += 1;
            of(expected.entry(0).or_default()).pool += 1;
        } else {
            of(expected.entry(slot).or_default()).floor += 1;
        }
    };
    for entry in oracle.conns.values() {
        charge(|usage| &mut usage.conns, (entry.slot, entry.pooled));
    }
    for (name, denial) in &oracle.denials {
        charge(|usage| &mut usage.denials, (name.0, denial.pooled));
    }
    for first in oracle.firsts.owners() {
        charge(|usage| &mut usage.fragments, first);
    }
    for (slot, (flows, denials)) in &oracle.lost {
        let usage = expected.entry(*slot).or_default();
        (usage.flows_lost, usage.denials_lost) = (*flows, *denials);
    }
    for (slot, packets) in &oracle.refused {
        expected.entry(*slot).or_default().conns_refused = *packets;
    }
    for (slot, datagrams) in &oracle.firsts.lost {
        expected.entry(*slot).or_default().fragments_lost = *datagrams;
    }
    (state.usage != expected).then(|| format!("usage: {:?}, oracle: {expected:?}", state.usage))
}

/// The first thing in which the kernel's tables differ from the host's, whose clock may be a moment behind.
pub(super) fn kernel_differs(kernel: &TableState, host: &TableState, moment: u32) -> Option<String> {
    let close = |kernel: u32, host: u32| kernel.wrapping_sub(host) <= moment;
    for (key, conn) in &host.conns {
        let expected = kernel.conns.get(key);
        let same = expected.is_some_and(|kernel| {
            close(kernel.last, conn.last)
                && *conn
                    == ConnState {
                        last: conn.last,
                        ..*kernel
                    }
        });
        if !same {
            return Some(format!("{key:?}: {expected:?} in the kernel, {conn:?} on the host"));
        }
    }
    for (key, denial) in &host.denials {
        let expected = kernel.denials.get(key);
        let same = expected.is_some_and(|kernel| {
            let mut aligned = *kernel;
            aligned.last = denial.last;
            close(kernel.last, denial.last) && *denial == aligned
        });
        if !same {
            return Some(format!("{key:?}: {expected:?} in the kernel, {denial:?} on the host"));
        }
    }
    let sizes = |state: &TableState| (state.conns.len(), state.denials.len());
    let rest = |state: &TableState| (state.counters.clone(), state.usage.clone());
    (sizes(kernel) != sizes(host) || rest(kernel) != rest(host)).then(|| {
        format!(
            "{:?} {:?} in the kernel, {:?} {:?} on the host",
            sizes(kernel),
            rest(kernel),
            sizes(host),
            rest(host)
        )
    })
}
