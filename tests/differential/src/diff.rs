//! `analysis::diff` compared with the real outcome: a configuration in force with its connections, a second
//! configuration, and a packet of each connection after the switch.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::AtomicU64};

use anyhow::{Context as _, Result, ensure};
use taskgate_analysis::diff::{ConnectionFate, ConnectionsCompared, InForce, NextGates, compare};
use taskgate_api::ConnectionOutcome;
use taskgate_compiler::{CompileOptions, Compiled, EniLimits, GroupSetIds, RuleIds};
use taskgate_ebpf::{
    abi::{Direction, DropReason, Outcome, image::TIMEOUTS, image::Timeout, tables::state},
    conntrack::{default_seconds, initiator},
    flow::{TrackedIcmp, tracked_icmp},
    packet::Kind,
};
use taskgate_model::{
    AddressList, Binding, Direction as RuleDirection, Eni, FlowLog, GroupIndex, Model, OnRuleRemoval, Peer, Traffic,
    Uplink, UplinkMode,
};
use taskgate_tables::{ConnState, FlowId, FlowKey, TrackedConn};
use testkit::fixture::{
    DataPath as _, Fixture, Host, Kernel, SECOND, Sent, all_gated,
    frames::{self, flags},
};

use crate::{generator::Generator, rng::Rng, world::any_model};

/// The number of connections with each fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    pub over: u64,
    pub allowed: u64,
    pub cut: u64,
    pub kept: u64,
    pub unclear: u64,
}

/// Room in the tables, more than packets.
const ROOM: usize = 4_000;
/// Packets under each of the two configurations before the switch.
const PACKETS: usize = 400;

/// Compares the fates that `diff` predicts for the connections of a seed's packets with their real fates.
///
/// # Errors
/// A connection has another fate than predicted.
pub fn fates_of(seed: u64, image: &[AtomicU64]) -> Result<Fates> {
    let mut rng = Rng::new(seed);
    let mut fixture = Fixture::new(image)?;
    let mut host = Host::new(image, ROOM);
    let first = any_settings(any_model(&mut rng).0, &mut rng);
    let second = if rng.one_in(2) {
        varied(&first, &mut rng)
    } else {
        first.clone()
    };
    let mut links = BTreeMap::new();
    for model in [first, second.clone()] {
        switch(&mut fixture, &model, &mut links)?;
        talk(&fixture, &mut host, &links, &mut rng)?;
    }
    let next = if rng.one_in(2) {
        any_settings(any_model(&mut rng).0, &mut rng)
    } else {
        varied(&second, &mut rng)
    };
    let conns: Vec<TrackedConn> = host
        .state(fixture.highest)?
        .conns
        .into_iter()
        .map(|(key, state)| tracked(&fixture, key, state))
        .collect();
    let told: Vec<ConnectionFate> = {
        let gates = NextGates::new(&next)?;
        let slots = fixture.writer.slots();
        let slot = |slot: u16| slots.get(&slot).map(String::as_str);
        let rules = |number: u32| fixture.rule_ids.name(number);
        let in_force = InForce {
            model: &second,
            slots: &slot,
            rules: &rules,
            image,
            timeouts: timeouts(),
            now: host.now()?,
        };
        let mut compared = ConnectionsCompared::new(in_force, &next, &gates);
        conns.iter().map(|conn| compared.add(conn)).collect()
    };
    let cuts = next.settings.on_rule_removal == OnRuleRemoval::Cut;
    switch(&mut fixture, &next, &mut links)?;
    fixture.writer.synchronize(&mut || {});
    let mut fates = Fates::default();
    for (conn, fate) in conns.iter().zip(told) {
        let describe = || format!("seed {seed}: {fate:?} was told of {conn:?}");
        let expected = match fate {
            ConnectionFate::Over => {
                fates.over += 1;
                continue;
            }
            ConnectionFate::Unclear => {
                fates.unclear += 1;
                continue;
            }
            ConnectionFate::Allowed => {
                fates.allowed += 1;
                None
            }
            ConnectionFate::Lost(ConnectionOutcome::Kept, _) => {
                fates.kept += 1;
                ensure!(!cuts, "{}", describe());
                None
            }
            ConnectionFate::Lost(ConnectionOutcome::Cut, reason) => {
                fates.cut += 1;
                Some(reason)
            }
        };
        let direction = initiator(conn.state.state);
        for direction in [direction, direction.opposite()] {
            let Some(frame) = packet(conn, direction) else { continue };
            let sent = Sent {
                frame: &frame,
                link: conn.key.conn_link().get(),
                direction,
                came_by: 0,
                segments: (0, 0),
                left: taskgate_ebpf::host::Left::NOTHING,
            };
            let passes = host.judge(&sent)?;
            let ended = host.last.context("nothing was judged")?;
            // No configuration says who owns a link-local address: it may have been heard from a neighbour since.
            let is_neighbours = matches!(ended, Outcome::Drop(DropReason::NotForTask | DropReason::SpoofedSource))
                && matches!(conn.key.local(), IpAddr::V6(local) if local.is_unicast_link_local());
            match expected {
                None if is_neighbours => {}
                None => ensure!(passes, "{}, but {direction} it ended as {ended:?}", describe()),
                // Where an address is not the task's any more, that of the other direction may still be judged as its own.
                Some("spoofed-source" | "not-for-task") if direction != initiator(conn.state.state) => {}
                Some(reason) => {
                    let reason_fits = direction != initiator(conn.state.state)
                        || ended == Outcome::Drop(DropReason::UnknownTask) && reason == "task-removed"
                        || is_neighbours
                        || ended.name() == reason;
                    ensure!(
                        !passes && reason_fits,
                        "{}, but {direction} it ended as {ended:?}",
                        describe()
                    );
                }
            }
        }
    }
    Ok(fates)
}

fn any_settings(mut model: Model, rng: &mut Rng) -> Model {
    model.settings.on_rule_removal = rng.of(&[OnRuleRemoval::Keep, OnRuleRemoval::Cut]);
    model
}

fn timeouts() -> [u32; TIMEOUTS] {
    Timeout::ALL.map(|timeout| default_seconds(timeout) * SECOND)
}

/// Switches to a model, and binds a link to each new ENI.
fn switch(fixture: &mut Fixture<'_>, model: &Model, links: &mut BTreeMap<u32, String>) -> Result<()> {
    fixture.apply(model.clone(), &all_gated)?;
    for eni in model.gated() {
        if !links.values().any(|linked| *linked == eni.id) {
            let free = Kernel::LINKS
                .clone()
                .find(|link| !links.contains_key(link))
                .context("no link is free")?;
            fixture.bind(free, &eni.id)?;
            links.insert(free, eni.id.clone());
        }
    }
    Ok(())
}

/// Packets by chance on the links.
fn talk(fixture: &Fixture<'_>, host: &mut Host<'_>, links: &BTreeMap<u32, String>, rng: &mut Rng) -> Result<()> {
    let addresses = |id: &String| -> Vec<IpAddr> {
        let eni = fixture.model.enis.iter().find(|eni| eni.id == *id);
        eni.map_or_else(Vec::new, |eni| eni.addresses.clone())
    };
    let ends = links.iter().map(|(link, eni)| (*link, addresses(eni)));
    let mut generator = Generator::new(ends.filter(|(_, addresses)| !addresses.is_empty()).collect());
    if generator.links.is_empty() {
        return Ok(());
    }
    for _ in 0..PACKETS {
        let thrown = generator.throw(rng);
        host.judge(&Sent {
            frame: &thrown.frame,
            link: thrown.link,
            direction: thrown.direction,
            came_by: 0,
            segments: thrown.segments,
            left: thrown.left,
        })?;
        host.tables.advance(rng.below(3) as u32);
    }
    Ok(())
}

fn tracked(fixture: &Fixture<'_>, key: FlowKey, state: ConnState) -> TrackedConn {
    let epoch = fixture.writer.control().epoch(state.slot);
    TrackedConn::new(FlowId::numbered(0), key, state, epoch)
}

/// A later packet of a connection; `None` if it has none in this direction.
fn packet(conn: &TrackedConn, direction: Direction) -> Option<Vec<u8>> {
    let TrackedConn { key, state, .. } = conn;
    let opened = initiator(state.state);
    let ((own, other), (local, remote)) = (key.ports(), (key.local(), key.remote()));
    let (from, to, source, destination) = match direction {
        Direction::Egress => (own, other, local, remote),
        Direction::Ingress => (other, own, remote, local),
    };
    let (kind, protocol) = match key {
        FlowKey::V4(_) => (Kind::V4, key.conn_protocol()),
        FlowKey::V6(_) => (Kind::V6, key.conn_protocol()),
    };
    // A group address does not send, and an answer to a group address would go to all of its members: no packet of the
    // other direction.
    let is_group = match local {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if direction != opened && (is_group || state.state & state::GROUP != 0) {
        return None;
    }
    let payload = match (protocol, kind) {
        (6, _) => frames::tcp(from, to, flags::ACK, b"more"),
        (17, _) => {
            // Answers of DHCP come from elsewhere.
            let is_dhcp = matches!(own, 68 | 546) && direction != opened;
            if is_dhcp {
                return None;
            }
            frames::udp(from, to, b"more")
        }
        (1, Kind::V4) | (58, Kind::V6) => match tracked_icmp(kind, u32::from(own) << 16 | u32::from(other)) {
            TrackedIcmp::Request(asks) if direction == opened => frames::icmp(asks, state.code, own, b"more"),
            TrackedIcmp::Request(asks) => frames::icmp(answer_to(asks), 0, own, b"more"),
            TrackedIcmp::Other(kind, code) if direction == opened => frames::icmp(kind, code, 0, b"more"),
            TrackedIcmp::Other(..) | TrackedIcmp::Error => return None,
        },
        _ => vec![0; 16],
    };
    Some(frames::ip(source, destination, protocol, &payload))
}

fn answer_to(asks: u8) -> u8 {
    match asks {
        8 => 0,
        128 => 129,
        other => other + 1,
    }
}

/// A model that differs from another in one or two points that packets or records may show.
fn varied(model: &Model, rng: &mut Rng) -> Model {
    let mut model = model.clone();
    for _ in 0..=rng.below(2) {
        vary(&mut model, rng);
    }
    model
}

fn vary(model: &mut Model, rng: &mut Rng) {
    let other = any_model(rng).0;
    let (group, direction) = (rng.below(model.groups.len()), rng.one_in(2));
    let way = if direction {
        RuleDirection::Ingress
    } else {
        RuleDirection::Egress
    };
    let fresh = other.groups[group].rules(way).to_vec();
    let gated: Vec<usize> = (0..model.enis.len())
        .filter(|at| model.enis[*at].binding.is_some())
        .collect();
    let eni = if gated.is_empty() { 0 } else { rng.of(&gated) };
    let group = &mut model.groups[group];
    let rules = if direction {
        &mut group.ingress
    } else {
        &mut group.egress
    };
    match rng.below(16) {
        0..3 if !rules.is_empty() => {
            rules.remove(rng.below(rules.len()));
        }
        3 => rules.extend(fresh.into_iter().take(1)),
        4 if rules.len() > 1 => {
            let (one, other) = (rng.below(rules.len()), rng.below(rules.len()));
            rules.swap(one, other);
        }
        5 if !rules.is_empty() => {
            let at = rng.below(rules.len());
            rules[at].peer = rng.of(&[
                Peer::Group(GroupIndex(0)),
                Peer::Missing(String::from("sg-other")),
                Peer::V4("10.0.0.0/9".parse().expect("a CIDR")),
            ]);
        }
        6 => model.enis[eni].groups.rotate_left(1),
        7 => model.enis[eni].groups = vec![GroupIndex(rng.below(4))],
        8 => {
            model.enis[eni].source_dest_check ^= true;
        }
        9 => {
            model.enis.remove(eni);
        }
        10 => {
            let list = &mut model.prefix_lists[rng.below(2)];
            if let Some(entries) = &mut list.entries {
                entries.pop();
            }
        }
        11 => model.settings.exempt = rng.of(&[AddressList::None, AddressList::Aws]),
        12 => model.settings.on_rule_removal = rng.of(&[OnRuleRemoval::Keep, OnRuleRemoval::Cut]),
        13 => {
            model.uplink = Some(Uplink {
                device: String::from("eth1"),
                mode: UplinkMode::Routed,
            });
        }
        14 => model.flow_logs.push(FlowLog {
            traffic: Traffic::Reject,
            ..FlowLog::default()
        }),
        _ => {
            model.enis[eni].addresses.truncate(1);
        }
    }
}

/// Checks that `compare` reports a difference wherever compiled images, rule names, or the input of records differ, and
/// none between equal models. Returns whether it reports one.
///
/// # Errors
/// It misses a difference, or reports one where there is none.
pub fn differences_of(seed: u64) -> Result<bool> {
    let mut rng = Rng::new(seed);
    let before = any_settings(any_model(&mut rng).0, &mut rng);
    ensure!(
        compare(&before, &before.clone()).is_empty(),
        "seed {seed}: a model differs from itself"
    );
    let after = varied(&before, &mut rng);
    let diff = compare(&before, &after);
    let back = compare(&after, &before);
    ensure!(
        diff.is_empty() == back.is_empty(),
        "seed {seed}: it differs one way only: {diff:?}, {back:?}"
    );
    let seen = |model: &Model| -> Result<_> {
        let mut rule_ids = RuleIds::default();
        let gate = |eni: &Eni| -> Option<EniLimits> { all_gated(eni) };
        let exempt = model.exempt();
        let options = CompileOptions {
            gate: &gate,
            exempt: &exempt.addresses,
            dhcp: exempt.dhcp,
        };
        let compiled = Compiled::new(model, options, &mut rule_ids, &mut GroupSetIds::default())?;
        let bindings: Vec<(String, Option<Binding>)> =
            model.gated().map(|eni| (eni.id.clone(), eni.binding.clone())).collect();
        Ok((compiled, rule_ids.rules().to_vec(), bindings))
    };
    let is_seen = seen(&before)? != seen(&after)?
        || before.settings != after.settings
        || before.flow_logs != after.flow_logs
        || before.uplink != after.uplink
        || before.enis != after.enis;
    ensure!(
        !is_seen || !diff.is_empty(),
        "seed {seed}: nothing is said of a difference"
    );
    ensure!(
        diff.is_empty() || before != after,
        "seed {seed}: models are equal, and {diff:?}"
    );
    Ok(!diff.is_empty())
}
