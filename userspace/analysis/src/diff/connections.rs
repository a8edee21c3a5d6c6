//! The effect of a new configuration on tracked connections.
//!
//! A connection that any rule of the new configuration allows goes on. A connection that no rule allows goes on too, unless
//! `on-rule-removal` is `cut`, or it is an untracked flow, which ends with its rule. A task that is removed or moves to
//! another link loses all its connections.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::atomic::AtomicU64,
};

use taskgate_api::{AdmittingRule, ConnectionCounts, ConnectionOutcome, ConnectionsDiff, LostConnections};
use taskgate_compiler::{CompileError, RuleName};
use taskgate_ebpf::{
    abi::{
        Direction, LinkId,
        image::TIMEOUTS,
        tables::{RULE_EXEMPT, state},
    },
    conntrack::{closed, idle, timeout_of},
    wire::TCP,
};
use taskgate_model::{Binding, Eni, Model, OnRuleRemoval};
use taskgate_tables::{TrackedConn, image::ImageControl};

use super::judge::{Answer, ConnectionJudge, Opening};
use crate::{display::protocol_word, frame::Message, host_image::HostImage};

/// The most lines in the result.
const LINES: usize = 1000;
/// The most kinds of connections; beyond that, ports are no longer distinguished.
const KINDS: usize = 1 << 16;
/// The most peers that a line names.
const PEERS: usize = 4;

/// The configuration in force and its state in the kernel.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// The configuration.
    pub model: &'a Model,
    /// The ENI of each slot, by its id.
    pub slots: &'a dyn Fn(u16) -> Option<&'a str>,
    /// The rule with a number.
    pub rules: &'a dyn Fn(u32) -> Option<&'a RuleName>,
    /// The image that its gates read.
    pub image: &'a [AtomicU64],
    /// The idle time-outs in ticks.
    pub timeouts: [u32; TIMEOUTS],
    /// The kernel's clock, in ticks.
    pub now: u32,
}

/// The new configuration, compiled to a separate image.
pub struct NextGates {
    host: HostImage,
    links: HashMap<String, LinkId>,
    cuts: bool,
}

impl NextGates {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// The configuration does not fit into an image.
    pub fn new(model: &Model) -> Result<Self, CompileError> {
        let is_gated = |eni: &Eni| eni.binding.is_some();
        let mut host = HostImage::new(model, &is_gated, &model.exempt())?;
        let mut links = HashMap::new();
        for (eni, number) in model.gated().zip(1..) {
            if let Some(slot) = host.writer.slot(&eni.id) {
                let link = LinkId::device(number);
                host.writer.add_link(link, slot)?;
                links.insert(eni.id.clone(), link);
            }
        }
        Ok(Self {
            host,
            links,
            cuts: model.settings.on_rule_removal == OnRuleRemoval::Cut,
        })
    }
}

/// The task of a slot.
struct SlotTask<'a> {
    eni: &'a Eni,
    /// The link in the new image, or the reason that its connections end.
    link: Result<LinkId, &'static str>,
}

/// The key by which lost connections are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Common {
    outcome: ConnectionOutcome,
    reason: &'static str,
    slot: u16,
    direction: Direction,
    protocol: u8,
    port: Option<u16>,
    icmp: Option<(u8, u8)>,
    rule: u32,
    untracked: bool,
    already: bool,
}

#[derive(Default)]
struct Counted {
    connections: u64,
    peers: BTreeSet<IpAddr>,
    more_peers: bool,
}

/// The effect of the new configuration on one tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFate {
    /// It is not live: closed, idle or already cut, or the entry of an ICMP error.
    Over,
    /// A rule of the new configuration allows it.
    Allowed,
    /// No rule allows it: its outcome and the reason.
    Lost(ConnectionOutcome, &'static str),
    /// Undecidable: the entry does not hold everything about the packet that opened it.
    Unclear,
}

/// Evaluates connections one by one.
pub struct ConnectionsCompared<'a> {
    in_force: InForce<'a>,
    now: ConnectionJudge<'a>,
    next: ConnectionJudge<'a>,
    tasks: HashMap<u16, Option<SlotTask<'a>>>,
    task_of: Box<dyn Fn(u16) -> Option<SlotTask<'a>> + 'a>,
    cuts: [bool; 2],
    generation: u16,
    counts: ConnectionCounts,
    lost: HashMap<Common, Counted>,
}

impl<'a> ConnectionsCompared<'a> {
    /// Compares the configuration in force with a new one.
    pub fn new(in_force: InForce<'a>, next_model: &'a Model, next: &'a NextGates) -> Self {
        let by_id = |model: &'a Model| -> HashMap<&'a str, &'a Eni> {
            model.gated().map(|eni| (eni.id.as_str(), eni)).collect()
        };
        let (enis, next_enis) = (by_id(in_force.model), by_id(next_model));
        let trunk_moves = in_force.model.uplink != next_model.uplink;
        let slots = in_force.slots;
        let task_of = move |slot: u16| {
            let eni = *enis.get(slots(slot)?)?;
            let link = match (next_enis.get(eni.id.as_str()), next.links.get(&eni.id)) {
                (Some(later), Some(_)) if moves(eni, later, trunk_moves) => Err("task-moved"),
                (Some(_), Some(link)) => Ok(*link),
                _ => Err("task-removed"),
            };
            Some(SlotTask { eni, link })
        };
        Self {
            now: ConnectionJudge::new(in_force.image),
            next: ConnectionJudge::new(next.host.writer.memory()),
            tasks: HashMap::new(),
            task_of: Box::new(task_of),
            cuts: [in_force.model.settings.on_rule_removal == OnRuleRemoval::Cut, next.cuts],
            generation: ImageControl::new(in_force.image).generation() as u16,
            counts: ConnectionCounts::default(),
            lost: HashMap::new(),
            in_force,
        }
    }

    /// Evaluates and counts one connection.
    pub fn add(&mut self, conn: &TrackedConn) -> ConnectionFate {
        let slot = conn.state.slot;
        let task = self.tasks.entry(slot).or_insert_with(|| (self.task_of)(slot));
        let (Some(task), true) = (task, is_live(conn, &self.in_force)) else {
            return ConnectionFate::Over;
        };
        let Some(opening) = Opening::of(conn) else {
            return ConnectionFate::Over;
        };
        let link = task.link;
        let answer = link.map(|link| self.next.judge(link, opening));
        let reason = match answer {
            Ok(Answer::Allowed) => {
                self.counts.live += 1;
                return ConnectionFate::Allowed;
            }
            Ok(Answer::Unclear) => {
                self.counts.live += 1;
                self.counts.unclear += 1;
                return ConnectionFate::Unclear;
            }
            Ok(Answer::Denied(reason)) => reason.name(),
            Err(reason) => reason,
        };
        let untracked = conn.state.state & state::UNTRACKED != 0;
        let already = self.now.judge(conn.key.conn_link(), opening) != Answer::Allowed;
        let is_older = conn.state.generation != self.generation;
        if already && is_older && (untracked || self.cuts[0]) {
            return ConnectionFate::Over;
        }
        let outcome = if link.is_err() || untracked || self.cuts[1] {
            ConnectionOutcome::Cut
        } else {
            ConnectionOutcome::Kept
        };
        self.count(conn, opening, (outcome, reason, already));
        ConnectionFate::Lost(outcome, reason)
    }

    fn count(
        &mut self,
        conn: &TrackedConn,
        opening: Opening,
        (outcome, reason, already): (ConnectionOutcome, &'static str, bool),
    ) {
        self.counts.live += 1;
        match outcome {
            ConnectionOutcome::Cut => self.counts.cut += 1,
            ConnectionOutcome::Kept => self.counts.kept += 1,
        }
        let (port, icmp) = match opening.message {
            Message::Tcp { port, .. } | Message::Udp { port, .. } => (Some(port), None),
            Message::Icmp { kind, code } | Message::Icmpv6 { kind, code } => (None, Some((kind, code))),
            Message::Other(_) => (None, None),
        };
        let mut common = Common {
            outcome,
            reason,
            slot: conn.state.slot,
            direction: opening.direction,
            protocol: opening.message.protocol(),
            port,
            icmp,
            rule: conn.state.rule,
            untracked: conn.state.state & state::UNTRACKED != 0,
            already,
        };
        if self.lost.len() >= KINDS && !self.lost.contains_key(&common) {
            common.port = None;
        }
        let counted = self.lost.entry(common).or_default();
        counted.connections += 1;
        if counted.peers.len() < PEERS {
            counted.peers.insert(opening.remote);
        } else if !counted.more_peers {
            counted.more_peers = !counted.peers.contains(&opening.remote);
        }
    }

    /// The result.
    pub fn finish(self) -> ConnectionsDiff {
        let Self {
            in_force,
            tasks,
            mut counts,
            lost,
            ..
        } = self;
        let line = |(common, counted): (Common, Counted)| {
            let eni = tasks.get(&common.slot)?.as_ref()?.eni;
            let rule = (common.rule != RULE_EXEMPT)
                .then(|| (in_force.rules)(common.rule))
                .flatten();
            Some(LostConnections {
                outcome: common.outcome,
                reason: common.reason.to_owned(),
                task: eni.task.clone(),
                eni: eni.id.clone(),
                direction: common.direction.to_string(),
                protocol: protocol_word(common.protocol),
                port: common.port,
                icmp: common.icmp,
                admitted_by: rule.map(admitting_rule),
                untracked: common.untracked,
                already: common.already,
                connections: counted.connections,
                peers: counted.peers.into_iter().collect(),
                more_peers: counted.more_peers,
            })
        };
        let mut diff = ConnectionsDiff {
            without_rule: lost.into_iter().filter_map(line).collect(),
            counts,
        };
        diff.without_rule.sort_by(order);
        let rest = diff.without_rule.split_off(diff.without_rule.len().min(LINES));
        counts.not_listed = rest.iter().map(|lost| lost.connections).sum();
        diff.counts = counts;
        diff
    }
}

/// Whether an ENI moves to another link.
fn moves(eni: &Eni, later: &Eni, trunk_moves: bool) -> bool {
    match (&eni.binding, &later.binding) {
        (Some(Binding::Vlan(vlan)), Some(Binding::Vlan(other))) => vlan.id != other.id || trunk_moves,
        (binding, other) => binding != other,
    }
}

/// Whether a connection is live by its entry: not idle, not closed, and of the current epoch.
fn is_live(conn: &TrackedConn, in_force: &InForce<'_>) -> bool {
    let (protocol, state) = (conn.key.conn_protocol(), conn.state.state);
    let timeout = in_force.timeouts[timeout_of(protocol, state) as usize];
    let is_over = idle(in_force.now, conn.state.last, timeout) || protocol == TCP && closed(state);
    !conn.outdated && !is_over
}

/// The names of a rule, in the form of the API.
pub fn admitting_rule(rule: &RuleName) -> AdmittingRule {
    AdmittingRule {
        group: rule.group.clone(),
        group_name: rule.group_name.clone(),
        rule: rule.rule.clone(),
    }
}

/// Sorts connections that end first, then by number, the largest first.
fn order(one: &LostConnections, other: &LostConnections) -> Ordering {
    let key = |lost: &LostConnections| (lost.outcome == ConnectionOutcome::Kept, Reverse(lost.connections));
    let name = |lost: &LostConnections| {
        let LostConnections {
            eni,
            direction,
            protocol,
            port,
            icmp,
            reason,
            ..
        } = lost.clone();
        (eni, direction, protocol, port, icmp, reason)
    };
    key(one).cmp(&key(other)).then_with(|| name(one).cmp(&name(other)))
}
