//! A reader of the kernel's type information (BTF), limited to functions and members of structures. The format is in the kernel's
//! `include/uapi/linux/btf.h`.

use std::io;

const MAGIC: u16 = 0xeb9f;
/// Kinds of types.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// The depth up to which references to other types and nested structures are followed.
const DEPTH: u32 = 16;

/// The types in BTF.
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    /// The offset of each type's entry in `types`; the first type has the number 1.
    entries: Vec<usize>,
    types: &'a [u8],
}

/// The place of a member in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its first bit.
    pub(super) at: u32,
    /// Its size in bits; 0 if it is no integer.
    pub(super) bits: u32,
}

/// A type's entry: the offset of its name, the word of kind and count, its size or another type's number, and the bytes after these.
struct Entry<'a> {
    name: u32,
    info: u32,
    size_or_type: u32,
    rest: &'a [u8],
}

impl Entry<'_> {
    fn kind(&self) -> u32 {
        self.info >> 24 & 31
    }

    fn count(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether the members' offsets have the size of a bit field in their upper bits.
    fn has_bit_fields(&self) -> bool {
        self.info >> 31 == 1
    }

    /// Bytes that follow the entry's first twelve.
    fn more(&self) -> usize {
        match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.count(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.count(),
            _ => 0,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn entry(types: &[u8], at: usize) -> Option<Entry<'_>> {
    Some(Entry {
        name: word(types, at)?,
        info: word(types, at + 4)?,
        size_or_type: word(types, at + 8)?,
        rest: types.get(at + 12..)?,
    })
}

impl<'a> Btf<'a> {
    /// Parses BTF.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if `data` is no BTF of this machine's byte order.
    pub(super) fn parse(data: &'a [u8]) -> io::Result<Self> {
        Self::parsed(data).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no BTF"))
    }

    fn parsed(data: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*data.first_chunk()?) != MAGIC {
            return None;
        }
        let part = |place: usize| {
            let from = word(data, 4)? as usize + word(data, place)? as usize;
            data.get(from..)?.get(..word(data, place + 4)? as usize)
        };
        let (types, strings) = (part(8)?, part(16)?);
        let mut btf = Self {
            strings,
            entries: Vec::new(),
            types,
        };
        let mut at = 0;
        while at < types.len() {
            btf.entries.push(at);
            at += 12 + entry(types, at)?.more();
        }
        Some(btf)
    }

    fn text(&self, at: u32) -> Option<&'a [u8]> {
        self.strings.get(at as usize..)?.split(|byte| *byte == 0).next()
    }

    fn entry(&self, number: u32) -> Option<Entry<'a>> {
        let index = (number as usize).checked_sub(1)?;
        entry(self.types, *self.entries.get(index)?)
    }

    /// The number of the first type of this kind and name.
    fn number(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |found: Entry<'_>| found.kind() == kind && self.text(found.name) == Some(name.as_bytes());
        (1..=self.entries.len() as u32).find(|number| self.entry(*number).is_some_and(is_it))
    }

    /// The number of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        self.number(kind::FUNC, name)
    }

    /// The place of a structure's member, including members of anonymous structures and unions in it.
    pub(super) fn member(&self, structure: &str, member: &str) -> Option<Member> {
        let number = self.number(kind::STRUCT, structure)?;
        self.member_of(number, member.as_bytes(), DEPTH)
    }

    fn member_of(&self, number: u32, wanted: &[u8], depth: u32) -> Option<Member> {
        let within = self.entry(number)?;
        if depth == 0 || !matches!(within.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..within.count()).find_map(|index| {
            let field = |place| word(within.rest, 12 * index + place);
            let (name, of, offset) = (self.text(field(0)?)?, field(4)?, field(8)?);
            let (at, bits) = if within.has_bit_fields() {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            if name == wanted {
                let bits = if bits == 0 { self.bits(of) } else { bits };
                return Some(Member { at, bits });
            }
            if !name.is_empty() {
                return None;
            }
            let inner = self.member_of(of, wanted, depth - 1)?;
            Some(Member {
                at: at.saturating_add(inner.at),
                ..inner
            })
        })
    }

    /// Bits of an integer type.
    fn bits(&self, mut number: u32) -> u32 {
        for _ in 0..DEPTH {
            match self.entry(number) {
                Some(found) if found.kind() == kind::INT => return 8 * found.size_or_type,
                Some(found)
                    if matches!(
                        found.kind(),
                        kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::TYPE_TAG
                    ) =>
                {
                    number = found.size_or_type;
                }
                _ => return 0,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::{Btf, Member};

    /// `typedef unsigned short u16; struct it { u16 first; union { u16 other; struct { unsigned flag:1, pair:2; }; }; };`
    fn example() -> Vec<u8> {
        let strings = b"\0u16\0it\0first\0other\0flag\0pair\0";
        let name = |text: &str| {
            let text = [b"\0", text.as_bytes(), b"\0"].concat();
            strings
                .windows(text.len())
                .position(|part| part == text)
                .map_or(0, |at| at as u32 + 1)
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types = [
            vec![0, info(1, 0), 2, 16],
            vec![name("u16"), info(8, 0), 1],
            vec![
                0,
                info(4, 2) | 1 << 31,
                4,
                name("flag"),
                1,
                1 << 24,
                name("pair"),
                1,
                2 << 24 | 1,
            ],
            vec![0, info(5, 2), 4, name("other"), 2, 0, 0, 3, 0],
            vec![name("it"), info(4, 2), 8, name("first"), 2, 0, 0, 4, 32],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut data = 0xeb9f_u16.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        let numbers = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        data.extend(numbers.into_iter().flat_map(u32::to_ne_bytes));
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_however_deep() {
        let data = example();
        let btf = Btf::parse(&data).unwrap();
        for (name, at, bits) in [("first", 0, 16), ("other", 32, 16), ("flag", 32, 1), ("pair", 33, 2)] {
            assert_eq!(btf.member("it", name), Some(Member { at, bits }), "{name}");
        }
        assert_eq!(btf.member("it", "none"), None);
        assert_eq!(btf.member("other", "first"), None);
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused_or_lacks_something() {
        let whole = example();
        for length in 0..whole.len() {
            if let Ok(btf) = Btf::parse(&whole[..length]) {
                btf.member("it", "pair");
            }
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(btf) = Btf::parse(&damaged) {
                    btf.member("it", "pair");
                }
            }
        }
        assert!(Btf::parse(b"").is_err());
    }
}
