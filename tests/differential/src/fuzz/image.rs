//! A damaged image: it may give wrong answers, but must do no other harm.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use taskgate_ebpf::{
    abi::{
        Address, LinkId, Outcome, PassReason,
        image::{AddressRow, BANK_BYTES, PolicyRef, PolicyRoots, SLOT_ROWS, Timeout, rows_bank, slot},
    },
    host::{HostFrame, HostTables, decide},
    policy::{Control, EniRow, Peer4, Peer6, PolicyQuery, PolicyResult, Rows, classify},
};

use super::{
    layout::{Question, Reach, Watched, Words},
    steps::{Step, Steps},
    vary,
};
use crate::{Generator, Rng, Tally, any_model};
use taskgate_tables::image::host_image;
use testkit::fixture::{Fixture, Kernel, Uplink};

/// Configurations, by the seeds of their last two generations.
const BASES: [[u64; 2]; 4] = [[1, 2], [6, 3], [4, 5], [9, 12]];
const BANKS: u32 = 6;
const ROOM: usize = 300;

/// A whole image, and the places of its non-zero words.
struct Base {
    words: Vec<AtomicU64>,
    filled: Vec<usize>,
    roots: Vec<PolicyRef>,
    links: Vec<(u32, Vec<std::net::IpAddr>)>,
}

thread_local! {
    static BASE: [Base; BASES.len()] = BASES.map(Base::new);
}

impl Base {
    fn new(seeds: [u64; 2]) -> Self {
        let words = host_image(BANKS);
        let mut fixture = Fixture::new(&words).expect("an image for a writer");
        let mut links = Vec::new();
        for seed in seeds {
            let (model, gates, _) = any_model(&mut Rng::new(seed));
            let gate_of = |id: &str| {
                let at = model.enis.iter().position(|eni| eni.id == id);
                at.and_then(|at| gates[at])
            };
            let applied = fixture.apply(model.clone(), &|eni| gate_of(&eni.id));
            applied.expect("a model that fits");
            links.clear();
            for (link, eni) in Kernel::LINKS.zip(model.enis.iter().filter(|eni| gate_of(&eni.id).is_some())) {
                fixture.bind(link, &eni.id).expect("an ENI with a slot");
                links.push((link, eni.addresses.clone()));
            }
            fixture.writer.synchronize(&mut || {});
        }
        drop(fixture);
        let filled = (0..words.len()).filter(|at| words[*at].load(Relaxed) != 0).collect();
        let view = Words(&words);
        let roots = (1..16)
            .flat_map(|slot| view.roots_of(slot))
            .flat_map(|roots| [roots.v4, roots.v6])
            .filter(|root| root.0 != 0)
            .collect();
        Self {
            words,
            filled,
            roots,
            links,
        }
    }
}

/// The first byte chooses a compiled image; the steps damage it, look things up in it, and send packets through a gate
/// that reads it. Returns the outcomes of the packets and of the lookups.
///
/// # Panics
/// If a lookup finds something that no row says, a policy's answer differs from its bits, a word outside of the image is
/// read, or a packet passes on a link that no row names.
pub fn image(data: &[u8]) -> Tally {
    let Some((base, steps)) = data.split_first() else {
        return Tally::default();
    };
    BASE.with(|bases| {
        let base = &bases[usize::from(*base) % bases.len()];
        let mut damage = Damage {
            base,
            was: Vec::new(),
            tables: HostTables::new(&base.words, ROOM),
            generator: Generator::new(base.links.clone()),
            tally: Tally::default(),
        };
        for step in Steps(steps) {
            damage.take(step);
        }
        damage.tally.clone()
    })
}

/// An image that is whole again when this goes.
struct Damage<'a> {
    base: &'a Base,
    /// The previous values of changed words.
    was: Vec<(usize, u64)>,
    tables: HostTables<'a>,
    generator: Generator,
    tally: Tally,
}

impl Drop for Damage<'_> {
    fn drop(&mut self) {
        for (at, word) in self.was.drain(..).rev() {
            self.base.words[at].store(word, Relaxed);
        }
    }
}

/// The first eight bytes as a word; missing ones are 0.
fn word_of(bytes: &[u8]) -> u64 {
    let some = bytes.iter().take(8).enumerate();
    some.map(|(at, byte)| u64::from(*byte) << (8 * at)).sum()
}

impl Damage<'_> {
    fn take(&mut self, Step { what, with }: Step<'_>) {
        match (what % 8, with) {
            (0..3, [place, a, b, how, value @ ..]) => self.change(*place, [*a, *b], *how, value),
            (3, [a, b, bytes @ ..]) => {
                // A stretch of words from somewhere within something.
                let at = self.filled([*a, *b]);
                for (word, bytes) in (at..).zip(bytes.chunks(8)) {
                    self.set(word, word_of(bytes));
                }
            }
            (4 | 5, _) => self.send(with),
            (6, _) => self.look_up(with),
            (7, _) => self.classify(with),
            _ => {}
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.tally.0.entry(what).or_default() += 1;
    }

    fn view(&self) -> Words<'_> {
        Words(&self.base.words)
    }

    fn watched(&self, reach: Reach) -> Watched<'_> {
        Watched {
            words: &self.base.words,
            reach,
        }
    }

    /// A word that held something, by its number.
    fn filled(&self, number: [u8; 2]) -> usize {
        let filled = &self.base.filled;
        // Numbers of two bytes reach everything.
        let number = usize::from(u16::from_le_bytes(number));
        filled[number * filled.len().div_ceil(0x1_0000) % filled.len()]
    }

    fn set(&mut self, at: usize, value: u64) {
        if let Some(word) = self.base.words.get(at) {
            self.was.push((at, word.load(Relaxed)));
            word.store(value, Relaxed);
        }
    }

    fn change(&mut self, place: u8, number: [u8; 2], how: u8, value: &[u8]) {
        const BANK: usize = BANK_BYTES as usize / 8;
        let [a, b] = number.map(usize::from);
        let rows = rows_bank(self.view().generation()) as usize * BANK;
        let at = match place % 8 {
            0 => a % 18,
            1 => rows + SLOT_ROWS.at(a as u32 % 16) as usize / 8 + b % 4,
            2 if !self.base.roots.is_empty() => {
                let root = self.base.roots[a % self.base.roots.len()];
                root.bank() as usize * BANK + root.offset() as usize / 8 + b % 8
            }
            3 => (a << 8 | b) * 61 % self.base.words.len(),
            _ => self.filled(number),
        };
        let was = self.base.words[at].load(Relaxed);
        let value = word_of(value);
        let shift = u32::from(how >> 3) * 2;
        let is = match how & 7 {
            0 | 1 => was ^ value.rotate_left(shift),
            2 => value.rotate_left(shift),
            3 => was.wrapping_add(value),
            4 => was.wrapping_sub(value),
            5 => was & 0xffff_ffff | value << 32,
            6 => was & !0xffff_ffff | value & 0xffff_ffff,
            _ => self.base.words[self.filled([value as u8, (value >> 8) as u8])].load(Relaxed),
        };
        self.set(at, is);
    }

    /// A packet past a gate.
    fn send(&mut self, with: &[u8]) {
        let thrown = self.generator.throw(&mut Rng::loaded(with));
        let frame = HostFrame {
            segments: thrown.segments,
            came_by: if thrown.from_wire { Uplink::LINK } else { 0 },
            left: thrown.left,
            ..HostFrame::new(&thrown.frame, LinkId::device(thrown.link))
        };
        let outcome = decide(&self.tables, &frame, thrown.direction);
        self.tables.advance(1);
        if outcome.passes() && outcome != Outcome::Pass(PassReason::Tracked) {
            let slots = self.view().slots_of(thrown.link);
            let open = slots.iter().filter_map(|slot| self.view().flags_of(*slot));
            let open = open.into_iter().any(|flags| flags & slot::ISOLATED == 0);
            assert!(
                open,
                "{outcome:?}, and no row names an open gate on link {}",
                thrown.link
            );
        }
        self.saw(outcome.name());
    }

    /// Looks up a slot, a link and an address in the rows.
    fn look_up(&mut self, with: &[u8]) {
        let [which, number @ ..] = with else { return };
        let number = word_of(number);
        let image = self.watched(Reach::Tables);
        let control = Control::read(&image).expect("a first bank");
        for timeout in Timeout::ALL {
            control.timeout(timeout);
        }
        control.epoch(number as u16);
        let Some(rows) = Rows::read(&image, control) else {
            assert_eq!(self.view().generation(), 0);
            return self.saw("no rows");
        };
        let mut eni = EniRow::default();
        let named = match which >> 4 {
            0 => number as u32,
            _ => vary::link(*which),
        };
        let found = rows.eni_of(named, &mut eni);
        if found.is_some() {
            let slots = self.view().slots_of(named);
            assert!(
                slots.contains(&eni.slot),
                "link {named}: {eni:?}, its rows say {slots:?}"
            );
            assert_eq!(self.view().flags_of(eni.slot), Some(eni.flags), "{eni:?}");
            assert_eq!(self.view().roots_of(eni.slot), eni.roots, "{eni:?}");
        }
        let slot = number as u16;
        let by_slot = rows.eni(slot, &mut eni);
        assert_eq!(by_slot.is_some(), self.view().flags_of(slot).is_some(), "slot {slot}");

        let address = self.address(number);
        let row = rows.address(&image, address);
        let known = row != AddressRow::default();
        if known {
            let said = self.view().rows_of(address);
            assert!(said.contains(&row), "{address:x?}: {row:?}, its rows say {said:?}");
        }
        self.saw(if found.is_some() { "a link" } else { "no link" });
        self.saw(if known { "an address" } else { "no address" });
    }

    /// An address of one of the ENIs, or any address.
    fn address(&self, number: u64) -> Address {
        let known = self.base.links.iter().flat_map(|(_, addresses)| addresses);
        let known: Vec<Address> = known.map(|address| Address::from(*address)).collect();
        match known.get(number as usize % (known.len() + 1)) {
            Some(known) => *known,
            None => Address::new(number, number.rotate_left(32)),
        }
    }

    /// Evaluates a policy.
    fn classify(&mut self, with: &[u8]) {
        let [whose, axis, port0, port1, set, peer @ ..] = with else {
            return;
        };
        let v6 = axis & 0x80 != 0;
        let far = match peer {
            [number] => self.address((*number).into()),
            _ => Address::new(word_of(peer), word_of(peer.get(8..).unwrap_or_default())),
        };
        let roots = if whose & 0x80 == 0 {
            self.view().roots_of(u16::from(whose & 0xf))[usize::from(whose >> 4 & 1)]
        } else {
            PolicyRoots::from_word(word_of(peer))
        };
        let question = Question {
            axis: u32::from(axis & 7),
            port: u16::from_le_bytes([*port0, *port1]).into(),
            peer: if v6 { far.to_bits() } else { far.v4().into() },
            v6,
            group_set: (*set).into(),
        };
        let image = self.watched(if self.was.is_empty() && whose & 0x80 == 0 {
            Reach::Bank
        } else {
            Reach::Masked
        });
        let Question {
            axis, port, group_set, ..
        } = question;
        let (root, says) = if v6 {
            let peer = Peer6(far);
            let subject = PolicyQuery {
                axis,
                port,
                peer,
                group_set,
            };
            (roots.v6, classify(&image, roots, subject))
        } else {
            let peer = Peer4(far.v4());
            let subject = PolicyQuery {
                axis,
                port,
                peer,
                group_set,
            };
            (roots.v4, classify(&image, roots, subject))
        };
        if let Some(expected) = self.view().classify(root, &question) {
            assert_eq!(says, expected, "{root:x?}, {question:x?}");
            self.saw("judged twice");
        }
        self.saw(match says {
            PolicyResult::Allowed(_) => "allowed",
            PolicyResult::NoRule => "no rule",
            PolicyResult::NoPolicy => "no policy",
        });
    }
}
