//! The bytes of a journal: a header, a place for each destination, then frames.
//!
//! | bytes | of the header |
//! |---|---|
//! | 0 to 7 | magic |
//! | 8 to 11 | the format's version |
//! | 12 to 15 | how many destinations there are |
//! | 16 to 31 | the boot's id |
//! | 32 to 63 | the identity of the tables |
//!
//! | bytes | of a destination's place |
//! |---|---|
//! | 0 to 7 | the position up to which lines are written |
//! | 8 to 31 | if the destination is a file: device, inode and length of the file for the next line |
//! | 32 to 35 | the CRC-32 of these |
//! | 36 to 63 | 0 |
//!
//! A frame is the length of its body (8 bytes), the CRC-32 of the body (4 bytes) and the body. Numbers are little-endian. The
//! first frame is the state; each further one has changes, and the last may be truncated because its process was killed.

use super::{Place, Refusal};
use crate::sink::Mark;

const MAGIC: [u8; 8] = *b"taskgate";
/// To be raised with each change of a journal's contents.
const FORMAT: u32 = 3;
/// The length of a header.
const HEADER: u64 = 64;
/// The length of a destination's place. A place never spans two pages, so a reader never sees one half written.
const PLACE: u64 = 64;
/// The length of a frame's head: the body's length and its CRC-32.
pub(super) const FRAME: u64 = 12;

/// The boot and the tables that a journal belongs to.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) boot: [u8; 16],
    pub(super) identity: [u8; 32],
}

/// The offset of the first frame, after the places of so many destinations.
pub(super) const fn body(destinations: usize) -> u64 {
    HEADER + PLACE * destinations as u64
}

/// The offset of a destination's place.
pub(super) const fn place_at(index: usize) -> u64 {
    body(index)
}

impl Header {
    /// The encoded header for so many destinations.
    pub(super) fn bytes(&self, destinations: usize) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(destinations as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.boot);
        bytes[32..64].copy_from_slice(&self.identity);
        bytes
    }

    /// Checks that a file is a journal of this format, boot and tables.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let Some((header, _)) = bytes.split_at_checked(HEADER as usize) else {
            return Err(Refusal::Foreign);
        };
        let found = number(&header[8..]);
        if header[..8] != MAGIC {
            Err(Refusal::Foreign)
        } else if found != FORMAT {
            Err(Refusal::Format { found, known: FORMAT })
        } else if header[16..32] != self.boot {
            Err(Refusal::Boot)
        } else if header[32..64] != self.identity {
            Err(Refusal::Tables)
        } else {
            Ok(())
        }
    }
}

/// A destination's place, encoded.
pub(super) fn place(of: Place) -> [u8; PLACE as usize] {
    let Place { position, mark } = of;
    let mut bytes = [0; PLACE as usize];
    for (at, word) in [position, mark.device, mark.inode, mark.length].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes[..32]);
    bytes[32..36].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Decodes the places of a file with a header, and returns them with the bytes after them; `None`: the file is damaged.
pub(super) fn to_places(bytes: &[u8]) -> Option<(Vec<Place>, &[u8])> {
    let count = number(bytes.get(12..)?);
    let (_, rest) = bytes.split_at_checked(HEADER as usize)?;
    let length = usize::try_from(u64::from(count) * PLACE).ok()?;
    let (places, frames) = rest.split_at_checked(length)?;
    let places = places.chunks_exact(PLACE as usize).map(to_place);
    Some((places.collect::<Option<_>>()?, frames))
}

fn to_place(bytes: &[u8]) -> Option<Place> {
    let word = |at: usize| bytes.get(8 * at..)?.first_chunk().copied().map(u64::from_le_bytes);
    let mark = Mark {
        device: word(1)?,
        inode: word(2)?,
        length: word(3)?,
    };
    let position = word(0)?;
    (crc32fast::hash(bytes.get(..32)?) == number(bytes.get(32..)?)).then_some(Place { position, mark })
}

/// The head of a frame, before its body.
pub(super) fn frame_head(length: u64, sum: u32) -> [u8; FRAME as usize] {
    let mut head = [0; FRAME as usize];
    head[..8].copy_from_slice(&length.to_le_bytes());
    head[8..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// A frame with this body.
pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(body.len() as u64, crc32fast::hash(body)).to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The bodies of frames; `None` for a damaged frame. A truncated last frame is left out.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_at_checked(FRAME as usize)?;
        let length = u64::from(number(head)) | u64::from(number(&head[4..])) << 32;
        let (body, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        Some((crc32fast::hash(body) == number(&head[8..])).then_some(body))
    })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
