//! One run of a seed's packets past the three implementations.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    net::IpAddr,
    ops::AddAssign,
    sync::atomic::AtomicU64,
};

use anyhow::{Context as _, Result};
use taskgate_compiler::EniLimits;
use taskgate_ebpf::{
    abi::{
        Direction, LinkId, Outcome,
        image::{Share, Shared, TIMEOUTS, Timeout, control},
    },
    host::Left,
};

mod uplink;

use super::{
    compare::{differs, kernel_differs},
    generator::{GeneratedPacket, Generator},
    naive_parser::read,
    oracle::{Oracle, World},
    rng::Rng,
    world::{any_model, any_shares},
};
use testkit::fixture::{DataPath as _, Fixture, Host, Kernel, SECOND, Sent, Uplink, frames};
use uplink::Met;

/// The source of the clock, and of the steps between packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's own: time-outs of few ticks, met exactly.
    Own,
    /// The kernel's clock, which continues meanwhile: time-outs are too long for a few seconds to matter.
    Kernels,
}

/// Packets by a seed.
#[derive(Clone, Copy, Debug)]
pub struct Episode {
    pub seed: u64,
    pub packets: usize,
    /// The complete state is compared after this many packets, and at the end.
    pub check_every: usize,
}

/// Where implementations differed.
#[derive(Debug)]
pub struct Difference {
    /// The episode's seed.
    pub seed: u64,
    /// The packet's number, from 0.
    pub packet: usize,
    pub thrown: GeneratedPacket,
    /// The difference.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "implementations differ: seed {}, packet {}", self.seed, self.packet)?;
        write!(f, "{}\n{}", self.thrown, self.what)
    }
}

impl Error for Difference {}

/// How packets ended, by the name of the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(pub BTreeMap<&'static str, u64>);

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }
}

impl Episode {
    /// More entries than an episode fills: only the table itself could say for which flow it has no room. Shares are
    /// compared.
    const ENOUGH: usize = 2_000;

    /// The oracle and the pure core. `image`: whole banks of memory, with any content.
    ///
    /// # Errors
    /// A [`Difference`], where the implementations differ.
    pub fn on_host(self, image: &[AtomicU64]) -> Result<Tally> {
        let room = Rng::new(self.seed).of(&[40, 300, 10_000]);
        let mut host = Host::new(image, Self::ENOUGH);
        host.tables.room_for_fragments_of(room);
        // In some episodes the ticks wrap around within the first packets.
        host.tables
            .advance(Rng::new(self.seed).of(&[0, u32::MAX - (1 << 20) - 100]));
        Stand::new(Rng::new(self.seed), image, room, Clock::Own)?.run(self, &mut host, None)
    }

    /// All three. To be called in a sandbox.
    ///
    /// # Errors
    /// As above.
    pub fn with_kernel(self, kernel: &mut Kernel) -> Result<Tally> {
        let image = kernel.image()?;
        let room = Kernel::ROOM as usize;
        let mut host = Host::new(&image, Self::ENOUGH);
        host.tables.room_for_fragments_of(room);
        kernel.clear()?;
        Stand::new(Rng::new(self.seed), &image, room, Clock::Kernels)?.run(self, &mut host, Some(kernel))
    }

    /// The same, with all state compared after each packet.
    #[must_use]
    pub fn closely(self) -> Self {
        Self { check_every: 1, ..self }
    }
}

/// Pads a frame to the minimum that BPF_PROG_TEST_RUN accepts: complete headers of its EtherType.
fn testable(frame: &mut Vec<u8>) {
    let least = match frame.get(12..14) {
        Some([8, 0]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 14,
    };
    if frame.len() < least {
        frame.resize(least, 0);
    }
}

/// The ifindex of a bridge.
const BRIDGE: u32 = 900;

/// Branches of a trunk, by the numbers that tables have for them; their VLAN ids are numbers of links too.
fn branches() -> impl Iterator<Item = u32> {
    (101..=104).map(|vlan| LinkId::branch(vlan).get())
}

/// Everything around the implementations.
pub(crate) struct Stand<'a> {
    /// Decides the next step.
    pub(crate) rng: Rng,
    /// The configuration in its image.
    pub(crate) fixture: Fixture<'a>,
    pub(super) world: World,
    clock: Clock,
    /// Makes packets.
    pub(crate) generator: Generator,
    pub(super) oracle: Oracle,
}

impl<'a> Stand<'a> {
    /// A run over whole banks of memory, with any content, and room for `room` entries in each table.
    pub(crate) fn new(mut rng: Rng, image: &'a [AtomicU64], room: usize, clock: Clock) -> Result<Self> {
        let fixture = Fixture::new(image)?;
        let timeouts = match clock {
            Clock::Own => [0; TIMEOUTS].map(|_| 1 + rng.below(400) as u32),
            Clock::Kernels => [
                20_500, 2_500, 500, 1_500, 3_500, 1_500, 5_500, 1_500, 2_500, 4_500, 2_500,
            ]
            .map(|seconds| seconds * SECOND),
        };
        let mut stand = Self {
            fixture,
            clock,
            generator: Generator::new(Vec::new()),
            oracle: Oracle::default(),
            world: World {
                model: taskgate_model::Model::default(),
                gates: Vec::new(),
                links: BTreeMap::new(),
                trunk: 0,
                carriers: BTreeMap::new(),
                slots: BTreeMap::new(),
                macs: BTreeMap::new(),
                segments: BTreeMap::new(),
                epochs: vec![0; usize::from(u16::MAX)],
                generation: 0,
                window: 0,
                flags: 0,
                shares: [Share::default(); 3],
                timeouts,
                room,
            },
            rng,
        };
        for (timeout, ticks) in Timeout::ALL.into_iter().zip(timeouts) {
            stand.fixture.writer.control().set_timeout(timeout, ticks);
        }
        let first = stand.rng.of(&[0, 29_000_000, 65_534]);
        stand.set_window(first);
        stand.set_flags();
        stand.fixture.set_uplink(Uplink::Routed);
        // Sometimes packets come before anything is configured.
        if stand.rng.one_in(10) {
            stand.learn();
        } else {
            stand.configure()?;
        }
        Ok(stand)
    }

    fn run(mut self, episode: Episode, host: &mut Host<'_>, mut kernel: Option<&mut Kernel>) -> Result<Tally> {
        let mut tally = Tally::default();
        for packet in 0..episode.packets {
            if self.rng.one_in(25) {
                self.happen(host, &mut kernel)?;
            }
            self.follow_clock(host, &mut kernel)?;
            let mut thrown = self.generator.throw(&mut self.rng);
            if self.clock == Clock::Kernels {
                testable(&mut thrown.frame);
                // BPF_PROG_TEST_RUN has no way to describe work that is left on a packet.
                thrown.left = Left::NOTHING;
            }
            let at_uplink = thrown.direction == Direction::Ingress && self.rng.one_in(8);
            let met = if at_uplink {
                self.past_uplink(&thrown, host, &mut kernel)?
            } else {
                Met::GoesOn
            };
            if let Met::Dropped = met {
                *tally.0.entry("dropped early").or_default() += 1;
                continue;
            }
            let closely = packet % episode.check_every == 0 || packet + 1 == episode.packets;
            let differs = match met {
                Met::Difference(what) => Some(what),
                _ => self.past(&thrown, host, &mut kernel, closely)?,
            };
            if let Some(what) = differs {
                return Err(Difference {
                    seed: episode.seed,
                    packet,
                    thrown,
                    what,
                }
                .into());
            }
            let ended = host.last.map_or("not judged", Outcome::name);
            *tally.0.entry(ended).or_default() += 1;
        }
        Ok(tally)
    }

    /// The segment of a link, in which neighbours hear each other.
    pub(crate) fn segment_on(&self, link: u32) -> u32 {
        let slot = self.world.eni_on(link).map(|(_, _, slot)| slot);
        let bridge = slot.and_then(|slot| self.world.segments.get(&slot));
        bridge.copied().unwrap_or(link)
    }

    pub(crate) fn is_trunk(&self, link: u32) -> bool {
        link == self.world.trunk
    }

    /// The gate that a link has, and the slot of its ENI.
    pub(crate) fn gate_on(&self, link: u32) -> Option<(EniLimits, u16)> {
        self.world.eni_on(link).map(|(_, gate, slot)| (gate, slot))
    }

    /// Judges a packet by all implementations; returns their difference.
    pub(crate) fn past(
        &mut self,
        thrown: &GeneratedPacket,
        host: &mut Host<'_>,
        kernel: &mut Option<&mut Kernel>,
        closely: bool,
    ) -> Result<Option<String>> {
        let sent = Sent {
            frame: &thrown.frame,
            link: thrown.link,
            direction: thrown.direction,
            came_by: if thrown.from_wire { Uplink::LINK } else { 0 },
            segments: thrown.segments,
            left: thrown.left,
        };
        let now = host.now()?;
        let reading = read(sent.frame, sent.segments, sent.left);
        let to = sent.frame.first_chunk().copied();
        let tagged = matches!(sent.frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        let how = (to, thrown.from_wire, tagged);
        let expected = self
            .oracle
            .judge(&self.world, &reading, sent.link, sent.direction, how, now);
        let passes = host.judge(&sent)?;
        if host.last != Some(expected) {
            return Ok(Some(format!("{:?}, oracle: {expected:?}", host.last)));
        }
        if let Some(kernel) = kernel
            && kernel.judge(&sent)? != passes
        {
            return Ok(Some(format!("the kernel does not: {expected:?}")));
        }
        if !closely {
            return Ok(None);
        }
        let highest = self.fixture.highest;
        let state = host.state(highest)?;
        let mut what = differs(&self.oracle, &self.fixture.rule_ids, &state);
        if let (None, Some(kernel)) = (&what, kernel) {
            what = kernel_differs(&kernel.state(highest)?, &state, SECOND);
        }
        Ok(what)
    }

    /// Something happens around the packets.
    pub(crate) fn happen(&mut self, host: &mut Host<'_>, kernel: &mut Option<&mut Kernel>) -> Result<()> {
        match self.rng.below(10) {
            0 | 1 => self.configure()?,
            2 | 3 => {
                let window = self.world.window + 1 + u32::from(self.rng.one_in(4));
                self.set_window(window);
            }
            4 => self.set_flags(),
            5 => {
                let slots: Vec<u16> = self.known().values().copied().collect();
                if !slots.is_empty() {
                    self.fixture.writer.bump_epoch(self.rng.of(&slots))?;
                }
                self.learn();
            }
            6 => self.move_link()?,
            _ => {
                let ticks = match self.clock {
                    Clock::Own => 1 + self.rng.below(200) as u32,
                    Clock::Kernels => self.rng.of(&[1_000, 2_000, 5_000, 20_000]) * SECOND,
                };
                host.age(ticks)?;
                if let Some(kernel) = kernel {
                    kernel.age(ticks)?;
                }
                for entry in self.oracle.conns.values_mut() {
                    entry.last = entry.last.wrapping_sub(ticks);
                }
                self.oracle.firsts.age(ticks);
                self.oracle.link_locals.age(ticks);
            }
        }
        Ok(())
    }

    /// Lets the host's clock go on.
    pub(crate) fn follow_clock(&mut self, host: &mut Host<'_>, kernel: &mut Option<&mut Kernel>) -> Result<()> {
        let ticks = match kernel {
            Some(kernel) => kernel.now()?.wrapping_sub(host.now()?),
            None => self.rng.below(4) as u32,
        };
        host.tables.advance(ticks);
        Ok(())
    }

    fn set_flags(&mut self) {
        let errors = [0, control::ICMP_PMTU, control::ICMP_PMTU | control::ICMP_ALL];
        self.world.flags = self.rng.of(&errors) | self.rng.of(&[0, 0, control::CUT]);
        self.fixture.writer.control().set_flags(self.world.flags);
    }

    fn set_window(&mut self, window: u32) {
        self.world.window = window;
        self.fixture.set_window(window);
    }

    /// The slots that links can be bound to.
    fn known(&self) -> BTreeMap<String, u16> {
        let names: BTreeSet<&String> = self
            .world
            .slots
            .keys()
            .chain(self.world.model.enis.iter().map(|eni| &eni.id))
            .collect();
        names
            .into_iter()
            .filter_map(|eni| Some((eni.clone(), self.fixture.writer.slot(eni)?)))
            .collect()
    }

    /// Switches to another configuration.
    fn configure(&mut self) -> Result<()> {
        let (model, gates, floor) = any_model(&mut self.rng);
        let by_id: BTreeMap<&str, Option<EniLimits>> = model
            .enis
            .iter()
            .zip(&gates)
            .map(|(eni, gate)| (eni.id.as_str(), *gate))
            .collect();
        self.fixture
            .apply(model.clone(), &|eni| by_id.get(eni.id.as_str()).copied().flatten())?;
        self.fixture.writer.control().set_flags(self.world.flags);
        self.fixture.writer.synchronize(&mut || {});
        self.world.model = model;
        self.world.gates = gates;
        self.world.shares = any_shares(self.rng.aside(), floor, self.world.room);
        for (table, share) in Shared::ALL.into_iter().zip(self.world.shares) {
            self.fixture.writer.control().set_share(table, share);
        }
        self.world.generation = self.fixture.writer.generation() as u32;
        // An ENI's first link; `move_link` adds and removes further ones.
        for (link, (eni, slot)) in Kernel::LINKS.zip(self.known()) {
            if !self.world.links.values().any(|linked| *linked == eni) && !self.world.links.contains_key(&link) {
                self.fixture.bind(link, &eni)?;
                self.world.bind(link, eni, slot);
            }
        }
        self.learn();
        Ok(())
    }

    /// Binds a link to another ENI, or to none.
    fn move_link(&mut self) -> Result<()> {
        let links: Vec<u32> = Kernel::LINKS.chain(branches()).collect();
        let link = self.rng.of(&links);
        let enis: Vec<String> = self.known().into_keys().collect();
        if enis.is_empty() || self.rng.one_in(3) {
            self.fixture.writer.remove_link(LinkId::from_number(link));
            self.world.unbind(link);
        } else {
            let eni = self.rng.of(&enis);
            self.fixture.bind(link, &eni).context("a known ENI has a slot")?;
            let slot = self.fixture.slot(&eni)?;
            self.world.bind(link, eni, slot);
        }
        self.fixture.writer.synchronize(&mut || {});
        self.learn();
        Ok(())
    }

    /// Updates oracle and generator after a change, and chooses which hardware addresses are known and which link is the
    /// trunk.
    fn learn(&mut self) {
        let links: Vec<u32> = [0; 4].into_iter().chain(Kernel::LINKS).collect();
        self.world.trunk = self.rng.aside().of(&links);
        self.fixture.writer.control().set_trunk(self.world.trunk);
        self.world.slots.extend(self.known());
        for slot in 1..=self.fixture.highest {
            let mac = self.rng.of(&[
                None,
                Some(frames::OWN_MAC),
                Some(frames::TASK_MAC),
                Some(frames::TASK_MAC),
            ]);
            self.fixture.writer.control().set_mac(slot, mac);
            self.world.macs.remove(&slot);
            self.world.macs.extend(mac.map(|mac| (slot, mac)));
            let bridge = self.rng.of(&[None, None, Some(BRIDGE)]);
            self.fixture.writer.control().set_segment(slot, bridge.unwrap_or(0));
            self.world.segments.remove(&slot);
            self.world.segments.extend(bridge.map(|bridge| (slot, bridge)));
        }
        for slot in 0..=self.fixture.highest {
            self.world.epochs[usize::from(slot)] = self.fixture.writer.control().epoch(slot);
        }
        let addresses = |eni: Option<&String>| -> Vec<IpAddr> {
            let eni = eni.and_then(|id| self.world.model.enis.iter().find(|eni| eni.id == *id));
            eni.map_or_else(Vec::new, |eni| eni.addresses.clone())
        };
        // A test run cannot give the kernel a tag in metadata.
        let tagged = branches().filter(|_| self.clock == Clock::Own);
        let links = Kernel::LINKS
            .chain(tagged)
            .map(|link| (link, addresses(self.world.links.get(&link))));
        self.generator.links = links.collect();
    }
}
