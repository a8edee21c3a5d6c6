//! A packet's complete path on the host: a generated world, and what happens in it, step by step.

use std::{collections::BTreeSet, sync::atomic::AtomicU64};

use taskgate_ebpf::{abi::Outcome, host::Left};

use super::{
    admitted::Admitted,
    alone::{Ended, compare, neighbourhood},
    invariants::Entry,
    steps::{Step, Steps},
    vary,
};
use crate::{Clock, GeneratedPacket, Rng, Stand, Tally, read};
use taskgate_tables::image::host_image;
use testkit::fixture::{DataPath as _, Host, TableState};

/// The earlier packets from which a later one may be made.
const KEPT: usize = 32;
/// More entries than packets: only the table itself can say for which flow it is too full.
const ENOUGH: usize = 2_000;
/// Room for first fragments, in entries of the other tables.
const ROOMS: [usize; 4] = [4, 40, 300, 10_000];

thread_local! {
    static IMAGE: Vec<AtomicU64> = host_image(7);
}

/// Three bytes choose the first configuration, one the sizes of the tables; the rest are steps: packets, their answers,
/// errors about them and fragments of them, and changes around packets (reloads, cuts, windows, epochs, links that move,
/// time). Each packet must end as the oracle says and leave the oracle's state in the tables, and the accounting must
/// balance; where no table is full, the packet must end the same without the other tasks' packets. Returns how packets
/// ended.
///
/// # Panics
/// If any of these conditions does not hold.
pub fn path(data: &[u8]) -> Tally {
    let Some(([a, b, c, room], steps)) = data.split_first_chunk() else {
        return Tally::default();
    };
    let seed = u64::from_le_bytes([*a, *b, *c, 0, 0, 0, 0, 0]);
    IMAGE.with(|image| {
        let walk = || Walk::new(seed, *room, image);
        let (tally, ended) = walk().through(Steps(steps));
        if usize::from(*room) % ROOMS.len() == ROOMS.len() - 1
            && let Some(links) = neighbourhood(&ended)
        {
            let only = Some(links.clone());
            let (_, alone) = Walk { only, ..walk() }.through(Steps(steps));
            compare(&links, &ended, &alone);
        }
        tally
    })
}

/// The oracle and the core, with their state.
struct Walk<'a> {
    stand: Stand<'a>,
    host: Host<'a>,
    seen: Vec<GeneratedPacket>,
    state: TableState,
    admitted: Admitted,
    ended: Vec<Ended>,
    tally: Tally,
    /// The links whose packets are judged; `None` for all.
    only: Option<BTreeSet<u32>>,
}

impl<'a> Walk<'a> {
    fn new(seed: u64, room: u8, image: &'a [AtomicU64]) -> Self {
        let size = ROOMS[usize::from(room) % ROOMS.len()];
        let mut host = Host::new(image, ENOUGH);
        host.tables.room_for_fragments_of(size);
        // In some runs the ticks wrap around within the first packets.
        if room & 0x80 != 0 {
            host.tables.advance(u32::MAX - (1 << 20) - 100);
        }
        Self {
            stand: Stand::new(Rng::new(seed), image, size, Clock::Own).expect("a world"),
            host,
            seen: Vec::new(),
            state: TableState::default(),
            admitted: Admitted::default(),
            ended: Vec::new(),
            tally: Tally::default(),
            only: None,
        }
    }

    fn through(mut self, steps: Steps<'_>) -> (Tally, Vec<Ended>) {
        for step in steps {
            self.take(step);
        }
        (self.tally, self.ended)
    }

    fn take(&mut self, Step { what, with }: Step<'_>) {
        self.stand.rng = Rng::loaded(with);
        let thrown = match what % 16 {
            0..6 => Some(self.stand.generator.throw(&mut self.stand.rng)),
            6 => raw(with),
            7..9 => self.earlier(with).map(|(earlier, with)| vary::edited(&earlier, with)),
            9..11 => self.earlier(with).map(|(earlier, with)| vary::answered(&earlier, with)),
            11 => self
                .earlier(with)
                .and_then(|(earlier, with)| vary::piece(&earlier, with)),
            12 => self
                .earlier(with)
                .and_then(|(earlier, with)| vary::error(&earlier, with)),
            _ => {
                let happened = self.stand.happen(&mut self.host, &mut None);
                happened.expect("nothing that can go wrong");
                // Time goes by in entries too.
                self.state = self.host.state(self.stand.fixture.highest).expect("plain collections");
                None
            }
        };
        let Some(thrown) = thrown else { return };
        let follow = self.stand.follow_clock(&mut self.host, &mut None);
        follow.expect("a clock of its own");
        if self.only.as_ref().is_none_or(|links| links.contains(&thrown.link)) {
            self.classify(&thrown);
        }
        if self.seen.len() == KEPT {
            self.seen.remove(0);
        }
        self.seen.push(thrown);
    }

    /// One of the last packets, chosen by the first byte, and the remaining bytes.
    fn earlier<'b>(&self, with: &'b [u8]) -> Option<(GeneratedPacket, &'b [u8])> {
        let (back, with) = with.split_first()?;
        let back = usize::from(*back) % self.seen.len().max(1);
        Some((self.seen.iter().rev().nth(back)?.clone(), with))
    }

    fn classify(&mut self, thrown: &GeneratedPacket) {
        let fragments = self.host.tables.fragments().len();
        let differ = self.stand.past(thrown, &mut self.host, &mut None, true);
        if let Some(what) = differ.expect("nothing that can go wrong") {
            panic!("{thrown}\n{what}");
        }
        let outcome = self.host.last.expect("it was judged");
        let after = self.host.state(self.stand.fixture.highest).expect("plain collections");
        let reading = read(&thrown.frame, thrown.segments, thrown.left);
        let gate = self.stand.gate_on(thrown.link);
        let entry = Entry {
            reading: &reading,
            gate,
            on_trunk: self.stand.is_trunk(thrown.link),
            direction: thrown.direction,
            outcome,
            before: &self.state,
            after: &after,
            fragments: (fragments, self.host.tables.fragments().len()),
        };
        entry.check();
        self.admitted.note(&reading, thrown.link, thrown.direction, outcome);
        self.state = after;
        self.ended.push(Ended {
            link: thrown.link,
            slot: gate.map(|(_, slot)| slot),
            segment: self.stand.segment_on(thrown.link),
            outcome,
        });
        *self.tally.0.entry(Outcome::name(outcome)).or_default() += 1;
    }
}

/// A frame byte for byte: link and direction first, then segments.
fn raw(with: &[u8]) -> Option<GeneratedPacket> {
    let ([place, segments, size], frame) = with.split_first_chunk()?;
    Some(GeneratedPacket {
        frame: frame.to_vec(),
        link: vary::link(*place),
        direction: vary::direction(place & 0x80 != 0),
        segments: if *size == 0 {
            (0, 0)
        } else {
            ((*segments).into(), (*size).into())
        },
        from_wire: place & 0xc0 == 0xc0,
        left: Left::NOTHING,
    })
}
