//! The accounting of the tables, checked by arithmetic alone: invariants after each packet, independent of the packet and
//! of the oracle.

use std::collections::BTreeMap;

use taskgate_compiler::EniLimits;
use taskgate_ebpf::abi::{
    Direction, DropReason, Outcome, PassReason,
    tables::{RULE_EXEMPT, state},
};
use taskgate_tables::{FlowCount, FlowKey, UsageState};

use crate::{Body, Reading, is_of_many};
use testkit::fixture::TableState;

/// A packet, its outcome, and the complete state before and after it.
pub(super) struct Entry<'a> {
    pub(super) reading: &'a Reading,
    /// The packet's gate, and the slot of its ENI, if its link has an ENI.
    pub(super) gate: Option<(EniLimits, u16)>,
    /// Whether the packet's link is the trunk, where packets without an ENI are the host's.
    pub(super) on_trunk: bool,
    pub(super) direction: Direction,
    pub(super) outcome: Outcome,
    pub(super) before: &'a TableState,
    pub(super) after: &'a TableState,
    /// How many datagrams' first fragments are remembered, before and after.
    pub(super) fragments: (usize, usize),
}

impl Entry<'_> {
    /// Panics where the books do not balance.
    pub(super) fn check(&self) {
        self.usage_is_what_is_there();
        self.nothing_shrinks();
        self.counted_once();
        self.a_drop_leaves_no_state();
        self.a_pass_has_a_reason();
    }

    fn packets(&self) -> u64 {
        match self.reading {
            Reading::Ip(ip) => ip.packets,
            Reading::Arp(_) | Reading::Nameless(_) => 1,
        }
    }

    /// The slots' usage equals the entries in the tables.
    fn usage_is_what_is_there(&self) {
        let mut used: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for conn in self.after.conns.values() {
            used.entry(conn.slot).or_default().0 += 1;
        }
        for key in self.after.denials.keys() {
            used.entry(key.denial_parts().0).or_default().1 += 1;
        }
        let said = self.after.usage.iter();
        let said: BTreeMap<u16, (u64, u64)> = said
            .map(|(slot, usage)| (*slot, (usage.conns.total(), usage.denials.total())))
            .filter(|(slot, used)| *slot > 0 && *used != (0, 0))
            .collect();
        assert_eq!(said, used, "connections and denied flows by slot, said and there");
        let pooled = |of: fn(&UsageState) -> u64| -> (u64, u64) {
            let (all, each): (Vec<_>, Vec<_>) = self.after.usage.iter().partition(|(slot, _)| **slot == 0);
            let sum = |slots: Vec<(&u16, &UsageState)>| sum(slots.into_iter().map(|(_, usage)| of(usage)));
            (sum(all), sum(each))
        };
        for of in [
            |usage: &UsageState| usage.conns.pool,
            |usage: &UsageState| usage.denials.pool,
            |usage: &UsageState| usage.fragments.pool,
        ] {
            let (all, each) = pooled(of);
            assert_eq!(all, each, "what is in a pool, and what slots have there");
        }
    }

    /// Tracked connections and denied flows are never removed here, so every entry stays and every count only grows.
    fn nothing_shrinks(&self) {
        let grew = |before: FlowCount, after: FlowCount| before.packets <= after.packets && before.bytes <= after.bytes;
        for (key, before) in &self.before.conns {
            let after = self.after.conns.get(key).expect("a connection stays");
            let grew = (0..2).all(|way| grew(before.totals[way], after.totals[way]));
            assert!(grew, "{key:?}: {before:?} became {after:?}");
        }
        for (key, before) in &self.before.denials {
            let after = self.after.denials.get(key).expect("a denied flow stays");
            assert!(
                grew(before.totals, after.totals),
                "{key:?}: {before:?} became {after:?}"
            );
        }
        for (which, before) in &self.before.counters {
            assert!(self.after.counters.get(which) >= Some(before), "{which:?} shrank");
        }
        // A complete datagram is forgotten.
        let is_later = matches!(self.reading, Reading::Ip(ip) if ip.fragment.is_some_and(|part| !part.is_first));
        assert!(
            self.fragments.0 <= self.fragments.1 + usize::from(is_later),
            "a remembered datagram is gone"
        );
    }

    /// Each packet is counted in one counter or, if it belongs to a connection, in the connection's entry; and the
    /// entries that records are made of count it once.
    fn counted_once(&self) {
        let packets = self.packets();
        let tracked = self.outcome == Outcome::Pass(PassReason::Tracked);
        let counted = sum(self.after.counters.values().copied()) - sum(self.before.counters.values().copied());
        assert_eq!(counted, if tracked { 0 } else { packets }, "packets in the counters");

        let way = self.direction.index();
        let conns = |state: &TableState, way: usize| sum(state.conns.values().map(|conn| conn.totals[way].packets));
        let [same, other] = [way, 1 - way].map(|way| conns(self.after, way) - conns(self.before, way));
        let denied = |state: &TableState| sum(state.denials.values().map(|denial| denial.totals.packets));
        let denied = denied(self.after) - denied(self.before);
        let lost = |of: fn(&UsageState) -> u64| {
            sum(self.after.usage.values().map(of)) - sum(self.before.usage.values().map(of))
        };
        let (lost_flows, lost_denials) = (lost(|usage| usage.flows_lost), lost(|usage| usage.denials_lost));
        let expected = match (self.outcome, self.leaves_record()) {
            (_, false) => [0; 5],
            (Outcome::Pass(PassReason::Rule | PassReason::IcmpError), _) if lost_flows > 0 => [0, 0, packets, 0, 0],
            (Outcome::Pass(_), _) => [packets, 0, 0, 0, 0],
            (Outcome::Drop(_), _) if lost_denials > 0 => [0, 0, 0, 0, packets],
            (Outcome::Drop(_), _) => [0, 0, 0, packets, 0],
        };
        assert_eq!(
            [same, other, lost_flows, denied, lost_denials],
            expected,
            "packets in connections this way and the other, lost, in denied flows, lost"
        );
    }

    /// Whether the packet belongs in a record: it has addresses, its link has an ENI, and it was not handled as neighbour
    /// traffic or as another host's.
    fn leaves_record(&self) -> bool {
        let known = self.after.counters.iter().any(|(which, packets)| {
            which.0 > 0 && self.before.counters.get(which).copied().unwrap_or_default() < *packets
        });
        let tracked = self.outcome == Outcome::Pass(PassReason::Tracked);
        let Reading::Ip(ip) = self.reading else {
            return false;
        };
        // Neighbour discovery beyond the link is ordinary ICMPv6 and has a record; other neighbour discovery has none.
        let (before, after) = (self.before, self.after);
        let recorded = before.denials != after.denials || before.usage != after.usage;
        let as_neighbour = match self.outcome {
            Outcome::Pass(pass) => pass == PassReason::Neighbour,
            Outcome::Drop(reason) => {
                // Frames that a bridge floods past the task, and packets to several hosts, are counted without a
                // record.
                let may_be_others = self.direction == Direction::Ingress
                    && (reason == DropReason::NotForTask || is_of_many(ip.destination));
                let may_be_neighbours = matches!(ip.body, Body::Neighbour { .. }) || ip.router_role;
                !recorded && (may_be_others || may_be_neighbours)
            }
        };
        (known || tracked) && !as_neighbour
    }

    /// A dropped packet opens, prolongs and closes nothing.
    fn a_drop_leaves_no_state(&self) {
        if let Outcome::Drop(_) = self.outcome {
            assert_eq!(
                self.before.conns, self.after.conns,
                "a dropped packet changed connections"
            );
            assert_eq!(
                self.fragments.0, self.fragments.1,
                "a dropped packet is a first fragment"
            );
        }
    }

    /// Conditions for every packet that passes, under any rules.
    fn a_pass_has_a_reason(&self) {
        let Outcome::Pass(pass) = self.outcome else {
            return;
        };
        let changed: Vec<&FlowKey> = self
            .after
            .conns
            .iter()
            .filter(|(key, conn)| self.before.conns.get(key) != Some(conn))
            .map(|(key, _)| key)
            .collect();
        let Some((gate, slot)) = self.gate else {
            let is_hosts = self.on_trunk && pass == PassReason::Host && changed.is_empty();
            assert!(is_hosts, "{pass:?}, and its link has no ENI");
            return;
        };
        assert!(!gate.isolated, "{pass:?}, and the ENI is isolated");
        for key in &changed {
            assert_eq!(self.after.conns[*key].slot, slot, "{pass:?} by what another ENI has");
        }
        assert!(changed.len() <= 1, "one packet, and these changed: {changed:?}");
        let was = changed.first().and_then(|key| self.before.conns.get(key));
        match (pass, self.reading) {
            (PassReason::Tracked, _) => {
                assert!(was.is_some(), "it is said to be tracked, and was not");
                assert_eq!(self.before.denials, self.after.denials, "it is tracked, and denied");
            }
            // Packets from an exempt address open nothing; they may answer.
            (PassReason::Exempt, _) => assert!(
                self.direction == Direction::Egress
                    || was.is_some_and(|was| was.rule == RULE_EXEMPT || was.state & state::INGRESS == 0),
                "something from outside passes as exempt"
            ),
            (PassReason::Neighbour, Reading::Arp(_)) | (PassReason::Rule, Reading::Ip(_)) => {}
            (PassReason::Neighbour, Reading::Ip(ip)) => {
                assert!(matches!(ip.body, Body::Neighbour { .. }), "{ip:?} is no neighbour's");
                assert!(changed.is_empty(), "neighbours have no connections");
            }
            (PassReason::IcmpError, Reading::Ip(ip)) => assert!(
                matches!(&ip.body, Body::Icmp { quoted: Some(_), .. }),
                "{ip:?} is no error about anything"
            ),
            (pass, reading) => panic!("{reading:?} passes as {pass:?}"),
        }
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.sum()
}
