//! The paths through the data path.

use std::{net::IpAddr, os::fd::AsFd as _};

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    program::{FROM_TASK, TO_TASK},
};

use taskgate_model::Family;

use super::{
    PathEffort,
    loaded::{self, Counted, LoadedFixture},
    measure::{Case, Path, Runner, rounds, run},
    rules::{self, OPEN_PORT, RuleKind, SETS, THOUSAND, THOUSAND_V6, WIDE},
    varied::{self, Order, Variation, Varied},
};
use testkit::fixture::frames::{self, flags};

/// The daemon's default room for tracked connections.
pub const ROOM: u32 = 262_144;
/// The default number of members of the group that rules refer to.
pub const MEMBERS: u32 = 10_000;
const MEMBER: u32 = 5_000;
const TCP: u8 = 6;

/// Programs by name, with the number of instructions that the verifier went through.
pub type Programs = Vec<(&'static str, Option<u32>)>;

/// Measures all paths, after [`loaded::make_links`] in the same sandbox.
pub fn measure(effort: PathEffort, say: &dyn Fn(&str)) -> Result<(Vec<Path>, Programs)> {
    say("loading the kernel program");
    let mut fixture = LoadedFixture::load(ROOM, MEMBERS)?;
    fixture.load_prefilter()?;
    let programs = fixture.object().verified_instructions()?;
    say("established and denied");
    let (established, denied) = steady(&mut fixture, effort)?;
    say("new connections");
    let opening = opening(&mut fixture, effort)?;
    drop(fixture);

    let mut paths = established;
    for bits in effort.random_bits {
        say(&format!("{} connections in random order", 1_u64 << bits));
        paths.extend(random(bits, effort)?);
    }
    paths.extend(denied);
    paths.extend(opening);
    Ok((paths, programs))
}

/// The program that judges in a direction.
fn classify(direction: Direction) -> &'static str {
    match direction {
        Egress => FROM_TASK,
        Ingress => TO_TASK,
    }
}

/// The address of the gated ENI at a place.
pub fn local(place: usize, family: Family) -> IpAddr {
    let (v4, v6) = rules::addresses(place);
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

/// The address of a peer that is not a member.
fn stranger(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 200, 0, 1].into(),
        Family::V6 => [0xfd00, 200, 0, 0, 0, 0, 0, 1].into(),
    }
}

/// A TCP packet between the task's port [`OPEN_PORT`] and a peer.
fn segment(direction: Direction, local: IpAddr, remote: IpAddr, flags: u8) -> Vec<u8> {
    const REMOTE_PORT: u16 = 40_001;
    match direction {
        Egress => frames::ip(local, remote, TCP, &frames::tcp(OPEN_PORT, REMOTE_PORT, flags, &[])),
        Ingress => frames::ip(remote, local, TCP, &frames::tcp(REMOTE_PORT, OPEN_PORT, flags, &[])),
    }
}

/// The packets that open a connection from outside.
const HANDSHAKE: [(Direction, u8); 3] = [(Ingress, flags::SYN), (Egress, flags::SYN_ACK), (Ingress, flags::ACK)];

fn same(fixture: &LoadedFixture, program: &'static str) -> Result<Runner> {
    Ok(Runner::Same(fixture.program(program)?))
}

fn varying(fixture: &LoadedFixture, program: &'static str, variation: Variation) -> Result<Runner> {
    let program = fixture.program(program)?;
    Ok(Runner::Varied(Varied::before(program.as_fd(), variation)?))
}

/// Opens a connection of the ENI at [`WIDE`].
fn open(fixture: &LoadedFixture, family: Family) -> Result<()> {
    for (direction, flags) in HANDSHAKE {
        let frame = segment(direction, local(WIDE, family), stranger(family), flags);
        let program = fixture.program(classify(direction))?;
        run(program.as_fd(), &frame, loaded::link(WIDE), 1, true)?;
    }
    Ok(())
}

/// Opens as many as 2 to the power of `bits`, over IPv4.
fn open_many(fixture: &mut LoadedFixture, bits: u32) -> Result<()> {
    let before = fixture.conns()?;
    for (direction, flags) in HANDSHAKE {
        let frame = segment(direction, local(WIDE, Family::V4), stranger(Family::V4), flags);
        // Not in the order in which the packets come later: entries made one after the other are adjacent in the table.
        let variation = Variation::new(bits, Order::Rising, Family::V4, direction);
        let runner = varying(fixture, classify(direction), variation)?;
        run(runner.as_fd(), &frame, loaded::link(WIDE), 1 << bits, true)?;
    }
    let opened = fixture.conns()? - before;
    ensure!(
        opened == 1 << bits,
        "{opened} connections were opened, not {}",
        1 << bits
    );
    Ok(())
}

fn established(fixture: &LoadedFixture, family: Family, direction: Direction, packets: u32) -> Result<Case> {
    let budget = match family {
        Family::V4 => 35,
        Family::V6 => 42,
    };
    let program = classify(direction);
    Ok(Case {
        name: format!("established, {family}, {program}"),
        budget: Some(budget),
        flat: false,
        frame: segment(direction, local(WIDE, family), stranger(family), flags::ACK),
        link: loaded::link(WIDE),
        passes: true,
        gate: same(fixture, program)?,
        empty: Runner::Same(varied::empty()?),
        packets,
    })
}

/// A packet from a member that the rules of a set deny. `members`: the number of members.
fn denied(fixture: &LoadedFixture, at: usize, members: u32, packets: u32) -> Result<Case> {
    let (set, place) = (SETS[at], at + 1);
    let (v4, v6) = rules::member_addresses(MEMBER % members);
    let family = set.family;
    let remote: IpAddr = match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    };
    let rules = if set.rules == 1 { "rule" } else { "rules" };
    let kind = match set.kind {
        RuleKind::Plain => "",
        RuleKind::NearMiss => " that all nearly match",
    };
    let members = if members == 1 { ", 1 member" } else { "" };
    let segment = frames::tcp(40_001, set.denied_port(), flags::SYN, &[]);
    Ok(Case {
        name: format!("denied, {family}, {} {rules}{kind}{members}", set.rules),
        budget: Some(90),
        flat: family == Family::V4,
        frame: frames::ip(remote, local(place, family), TCP, &segment),
        link: loaded::link(place),
        passes: false,
        gate: same(fixture, TO_TASK)?,
        empty: Runner::Same(varied::empty()?),
        packets,
    })
}

/// Packets that 1,000 rules deny, from peers in the networks that some of the rules name.
fn denied_in_turn(fixture: &LoadedFixture, bits: u32, packets: u32) -> Result<Case> {
    let (set, place) = (SETS[THOUSAND], THOUSAND + 1);
    let variation = Variation::new(bits, Order::Random, set.family, Ingress);
    let same = denied(fixture, THOUSAND, MEMBERS, packets)?;
    let segment = frames::tcp(40_001, set.denied_port(), flags::SYN, &[]);
    let remote: IpAddr = [172, 16, 0, 1].into();
    Ok(Case {
        name: format!("{}, {} peers in random order", same.name, 1 << bits),
        budget: None,
        flat: false,
        frame: frames::ip(remote, local(place, set.family), TCP, &segment),
        gate: varying(fixture, TO_TASK, variation)?,
        empty: Runner::Varied(Varied::before(varied::empty()?.as_fd(), variation)?),
        ..same
    })
}

/// Packets on many connections of IPv4 from the task, in an order without a pattern.
fn in_turn(fixture: &LoadedFixture, bits: u32, packets: u32) -> Result<Case> {
    let variation = Variation::new(bits, Order::Random, Family::V4, Egress);
    Ok(Case {
        frame: segment(Egress, local(WIDE, Family::V4), stranger(Family::V4), flags::ACK),
        link: loaded::link(WIDE),
        passes: true,
        gate: varying(fixture, FROM_TASK, variation)?,
        empty: Runner::Varied(Varied::before(varied::empty()?.as_fd(), variation)?),
        packets,
        ..established(fixture, Family::V4, Egress, packets)?
    })
}

/// New connections from strangers, which the last rule of a set allows.
fn new(fixture: &LoadedFixture, at: usize, bits: u32) -> Result<Case> {
    let (set, place) = (SETS[at], at + 1);
    let variation = Variation::new(bits, Order::Random, set.family, Ingress);
    Ok(Case {
        name: format!("new, allowed, {}, {} rules", set.family, set.rules),
        budget: Some(620),
        flat: false,
        frame: segment(Ingress, local(place, set.family), stranger(set.family), flags::SYN),
        link: loaded::link(place),
        passes: true,
        gate: varying(fixture, TO_TASK, variation)?,
        empty: Runner::Varied(Varied::before(varied::empty()?.as_fd(), variation)?),
        packets: 1 << bits,
    })
}

fn total(grounds: &mut [&mut LoadedFixture]) -> Result<Counted> {
    let mut total = Counted::default();
    for fixture in grounds {
        let Counted { tracked, denied } = fixture.counted()?;
        total.tracked += tracked;
        total.denied += denied;
    }
    Ok(total)
}

/// Measures cases and checks that the tables counted each packet as tracked or denied, as its case says.
fn counted(grounds: &mut [&mut LoadedFixture], cases: &[Case], effort: PathEffort) -> Result<Vec<Path>> {
    let before = total(grounds)?;
    let paths = rounds(cases, effort.rounds, &mut |_| Ok(()))?;
    let after = total(grounds)?;
    // Includes the uncounted round.
    let packets = |passes| {
        let cases = cases.iter().filter(|case| case.passes == passes);
        cases.map(|case| u64::from(case.packets)).sum::<u64>() * u64::from(effort.rounds + 1)
    };
    let expected = Counted {
        tracked: before.tracked + packets(true),
        denied: before.denied + packets(false),
    };
    ensure!(after == expected, "the tables counted {after:?}, not {expected:?}");
    Ok(paths)
}

/// Paths that take the same packet repeatedly (established connections, recorded denials), and paths that show how far
/// the other way of measuring is from that.
fn steady(fixture: &mut LoadedFixture, effort: PathEffort) -> Result<(Vec<Path>, Vec<Path>)> {
    const FEW: u32 = 2;
    const SOME: u32 = 10;
    let mut bare = LoadedFixture::load(ROOM, 1)?;
    let mut cases = Vec::new();
    for family in [Family::V4, Family::V6] {
        open(fixture, family)?;
        for direction in [Egress, Ingress] {
            cases.push(established(fixture, family, direction, effort.packets)?);
        }
    }
    open_many(fixture, FEW)?;
    cases.push(Case {
        name: format!(
            "established, IPv4, {FROM_TASK}, {} connections in random order",
            1 << FEW
        ),
        budget: None,
        ..in_turn(fixture, FEW, effort.packets)?
    });
    let denials = cases.len();
    for at in 0..SETS.len() {
        cases.push(denied(fixture, at, MEMBERS, effort.packets)?);
    }
    cases.push(denied(&bare, THOUSAND, 1, effort.packets)?);
    cases.push(denied_in_turn(fixture, SOME, effort.packets)?);
    let mut established = counted(&mut [fixture, &mut bare], &cases, effort)?;
    let denied = established.split_off(denials);
    Ok((established, denied))
}

/// Paths that open a connection with each packet; the table is emptied after each round.
fn opening(fixture: &mut LoadedFixture, effort: PathEffort) -> Result<Vec<Path>> {
    fixture.forget_conns()?;
    let cases = [THOUSAND, THOUSAND_V6].map(|at| new(fixture, at, effort.new_bits));
    let cases = cases.into_iter().collect::<Result<Vec<_>>>()?;
    rounds(&cases, effort.rounds, &mut |case| {
        let opened = fixture.forget_conns()?;
        ensure!(
            opened == u64::from(case.packets),
            "{} packets opened {opened} connections",
            case.packets
        );
        Ok(())
    })
}

/// Established connections in random order, in a table with room for twice as many.
fn random(bits: u32, effort: PathEffort) -> Result<Vec<Path>> {
    let mut fixture = LoadedFixture::load(2 << bits, MEMBERS)?;
    open_many(&mut fixture, bits)?;
    let budget = match bits {
        17 => Some(350),
        20 => Some(460),
        _ => None,
    };
    let case = Case {
        name: format!(
            "established, IPv4, {FROM_TASK}, {} connections in random order",
            1 << bits
        ),
        budget,
        ..in_turn(&fixture, bits, 1 << bits)?
    };
    counted(&mut [&mut fixture], &[case], effort)
}
