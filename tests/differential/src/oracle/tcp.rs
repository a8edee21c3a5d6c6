//! The known state of a TCP connection: the task's segments are believed, segments in its peer's name must fit.

use std::collections::BTreeMap;

use taskgate_ebpf::abi::Direction;

use super::super::naive_parser::Segment;

/// The known state of a TCP connection. Positions are sequence numbers, of which 16 bits are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tcp {
    /// The next sequence number of each side, as far as segments and acknowledgements have shown it.
    pub(crate) places: BTreeMap<Direction, u16>,
    /// The side that did not open the connection has answered.
    pub(crate) answered: bool,
    /// The handshake is complete.
    pub(crate) established: bool,
    /// The sides whose FIN counted.
    pub(crate) farewells: Vec<Direction>,
    /// The sides whose RST counted, and that have sent nothing since.
    pub(crate) broken: Vec<Direction>,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The distance from one position to another, as a signed number of less than half of all positions.
fn distance(from: u16, to: u16) -> i64 {
    match i64::from(to) - i64::from(from) {
        far if far >= 0x8000 => far - 0x1_0000,
        far if far < -0x8000 => far + 0x1_0000,
        near => near,
    }
}

/// Positions that a segment takes.
fn extent(segment: &Segment) -> i64 {
    i64::from(segment.payload) + i64::from(segment.flags & SYN != 0) + i64::from(segment.flags & FIN != 0)
}

fn end(segment: &Segment) -> u16 {
    (i64::from(segment.sequence) + extent(segment)).rem_euclid(0x1_0000) as u16
}

impl Tcp {
    pub(super) fn is_closed(&self) -> bool {
        self.farewells.len() == 2 || !self.broken.is_empty()
    }

    /// The first segment seen. Its acknowledgement is the only information about the other side.
    pub(super) fn first(segment: Option<&Segment>, sender: Direction, opener: Direction) -> Self {
        let mut tcp = Self::default();
        let Some(segment) = segment else {
            // An entry cannot express that the opener's position is unknown.
            tcp.places.insert(opener, 0);
            return tcp;
        };
        let reset = segment.flags & RST != 0;
        tcp.places
            .insert(sender, if reset { segment.sequence } else { end(segment) });
        if segment.flags & ACK != 0 {
            tcp.places.insert(sender.opposite(), segment.acknowledged);
        }
        tcp.answered = sender != opener;
        if segment.flags & FIN != 0 {
            tcp.farewells.push(sender);
        }
        if reset {
            tcp.broken.push(sender);
        }
        tcp
    }

    /// A later segment.
    pub(super) fn goes_on(&mut self, segment: Option<&Segment>, sender: Direction, opener: Direction) {
        let Some(segment) = segment else { return };
        let receiver = sender.opposite();
        let here = self.places.get(&sender) == Some(&segment.sequence);
        let acknowledges = segment.flags & ACK != 0;
        let exactly = acknowledges && self.places.get(&receiver) == Some(&segment.acknowledged);
        if segment.flags & RST != 0 {
            // A sender whose position is unknown must acknowledge exactly the receiver's position with its RST.
            let fits = if self.places.contains_key(&sender) {
                here
            } else {
                exactly
            };
            if fits && !self.broken.contains(&sender) {
                self.broken.push(sender);
            }
            return;
        }
        if segment.flags & FIN != 0 && !here {
            return;
        }
        self.broken.retain(|side| *side != sender);
        let believed = if sender == Direction::Egress {
            self.task_says(segment, opener);
            true
        } else {
            self.is_said_of_peer(segment, opener, exactly)
        };
        if believed {
            // An exact acknowledgement shows receipt; data beyond the first answer shows a connection.
            let proves = if sender == opener { exactly } else { extent(segment) > 0 };
            if self.answered && proves && segment.flags & SYN == 0 {
                self.established = true;
            }
            self.answered |= sender != opener;
        }
        if segment.flags & FIN != 0 && !self.farewells.contains(&sender) {
            self.farewells.push(sender);
        }
    }

    fn task_says(&mut self, segment: &Segment, opener: Direction) {
        let (task, peer) = (Direction::Egress, Direction::Ingress);
        let syn = segment.flags & SYN != 0;
        if syn && self.places.get(&task) != Some(&end(segment)) {
            // The state of the other side, and all flags, are reset.
            self.places.remove(&opener.opposite());
            *self = Self {
                places: std::mem::take(&mut self.places),
                ..Self::default()
            };
        }
        let at_its_word = syn || !self.established;
        let advanced = |place: Option<&u16>, to: u16, extent: i64| match place {
            Some(place) if !at_its_word && distance(*place, to) + extent <= 0 => *place,
            _ => (i64::from(to) + extent).rem_euclid(0x1_0000) as u16,
        };
        let own = advanced(self.places.get(&task), segment.sequence, extent(segment));
        self.places.insert(task, own);
        if segment.flags & ACK != 0 {
            let theirs = advanced(self.places.get(&peer), segment.acknowledged, 0);
            let before = self.places.insert(peer, theirs);
            // A side that sends more has not ended.
            if !at_its_word && before != Some(theirs) {
                self.farewells.retain(|side| *side != peer);
            }
        }
    }

    /// Notes a segment in the peer's name. Returns whether it may be the peer's.
    fn is_said_of_peer(&mut self, segment: &Segment, opener: Direction, exactly: bool) -> bool {
        let peer = Direction::Ingress;
        let nobody_answered = !self.places.contains_key(&opener.opposite());
        if opener == peer {
            if nobody_answered || self.places.get(&peer) == Some(&segment.sequence) {
                self.places.insert(peer, end(segment));
            }
            return true;
        }
        match self.places.get(&peer) {
            None if !exactly => return false,
            Some(place) if *place != segment.sequence => {}
            _ => {
                self.places.insert(peer, end(segment));
            }
        }
        true
    }
}
