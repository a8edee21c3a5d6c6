//! The verdict: the one function that the kernel's entry points, the tests and `explain` call.
//!
//! A packet of a tracked connection costs one lookup: no policy, no ENI, no event. Everything else is judged by the ENI
//! of its link, in [`admit`].

mod admit;
mod deny;
mod neighbour;
mod track;

use crate::{
    abi::{Direction, Outcome, Reason},
    family::{Family, V4, V6},
    packet::{Kind, Neighbour, Packet, Unparsed},
    policy::{Control, Image, PeerKey as _},
    tables::{Flows, Tables},
};

/// What one packet is judged with: read once, so that one generation decides.
struct Scene<'a, T: Tables> {
    tables: &'a T,
    packet: &'a Packet,
    direction: Direction,
    control: Control<<T as Image>::Bank>,
    now: u32,
}

/// Judges a packet at a gate, counts it, and keeps what must be kept. `parsed`: how the parser did.
///
/// [`Unparsed::Short`] means that pulling data in did not help: the frame is malformed.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, packet: &Packet, parsed: Result<(), Unparsed>, direction: Direction) -> Outcome {
    let Some(control) = Control::read(tables) else {
        return Outcome::Drop(Reason::NoPolicy);
    };
    let scene = Scene {
        tables,
        packet,
        direction,
        control,
        now: tables.now(),
    };
    let bad = match parsed {
        Ok(()) if packet.later_fragment => Some(Reason::FragmentWithoutFirst),
        Ok(()) => None,
        Err(Unparsed::Short) => Some(Reason::Malformed),
        Err(Unparsed::Bad(reason)) => Some(reason),
    };
    match packet.kind {
        Kind::V4 => scene.decide_ip::<V4>(bad),
        Kind::V6 => scene.decide_ip::<V6>(bad),
        Kind::Arp => match bad {
            None => scene.neighbour(),
            Some(reason) => scene.drop_uncounted_flow(reason),
        },
        Kind::None => scene.drop_uncounted_flow(bad.unwrap_or(Reason::Malformed)),
    }
}

impl<T: Tables> Scene<'_, T> {
    #[inline(always)]
    fn decide_ip<F: Family>(&self, bad: Option<Reason>) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let refused = match bad {
            // Neighbour discovery is IPv6's.
            None if F::Peer::V6 && !matches!(self.packet.neighbour, Neighbour::None) => match self.neighbour() {
                Outcome::Drop(reason) => Some(reason),
                pass @ Outcome::Pass(_) => return pass,
            },
            bad => bad,
        };
        let Some(reason) = refused else {
            return self.follow::<F>();
        };
        match self.eni() {
            Some(eni) => self.deny::<F>(&eni, reason),
            None => self.drop_unknown(),
        }
    }
}
