//! The offsets of fields in the running kernel's `struct sk_buff`, and the ways in which the kernel program reads them.

use std::{borrow::Cow, fs, io, path::Path};

use taskgate_ebpf::abi::sk_buff::{
    CAST, CAST_MARK, COPIED, CSUM_OFFSET, CSUM_START, ENCAPSULATION, HOW, INNER_MAC_HEADER, INNER_NETWORK_HEADER,
    IP_SUMMED, MAC_HEADER, NETWORK_HEADER, SPAN, START, WORDS,
};

use super::btf::Btf;

/// The kernel's BTF: with `CONFIG_DEBUG_INFO_BTF`, Linux 5.4 on.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// The lockdown mode, which may deny root the reading of kernel memory.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// The kernel's function that casts a program's context (Linux 6.2).
const CAST_FUNCTION: &str = "bpf_cast_to_kern_ctx";

/// How the program reads the socket buffer behind its context, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Not at all.
    None,
    /// It copies the part with the fields: a helper call for each packet.
    Copied,
    /// It casts its context: almost free.
    Cast,
}

/// Why the program cannot read a frame's pending offloads.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    /// The kernel has no readable BTF.
    #[error("the kernel's types cannot be read from `{VMLINUX}` (CONFIG_DEBUG_INFO_BTF)")]
    Types(#[source] io::Error),
    /// The kernel's `struct sk_buff` lacks a field, or has it at an unsupported place.
    #[error("the kernel's socket buffer has no `{field}` where the program could read it")]
    Field {
        /// The missing name.
        field: &'static str,
    },
    /// Lockdown in confidentiality mode.
    #[error("the kernel is locked down against being read (confidentiality)")]
    Lockdown,
    /// The verifier refused the programs that read the fields, and accepted the one that does not.
    #[error("the kernel refuses programs that look there")]
    Refused,
    /// Reading is off by an option.
    #[error("it was told not to look")]
    Off,
}

/// One way to read the socket buffer, with its load parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The way.
    pub(super) sight: Sight,
    /// The constant that the program is loaded with.
    pub(super) places: [u32; WORDS],
    /// The BTF number of the cast function, if it is used.
    cast: Option<u32>,
}

impl Look {
    /// Not at all.
    pub(super) const NOT: Self = Self {
        sight: Sight::None,
        places: [0; WORDS],
        cast: None,
    };

    /// The object with the call of the cast function filled in; without the function, with a load of 0 instead.
    pub(super) fn link<'a>(&self, object: &'a [u8]) -> Cow<'a, [u8]> {
        const CALL: u8 = 0x85;
        const OF_KERNEL: u8 = 0x20;
        const LOAD_ZERO: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];
        let instruction = |registers, number: u32| {
            let mut bytes = [CALL, registers, 0, 0, 0, 0, 0, 0];
            bytes[4..].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        let mark = instruction(0, CAST_MARK);
        let new = self.cast.map_or(LOAD_ZERO, |number| instruction(OF_KERNEL, number));
        let mut object = Cow::Borrowed(object);
        // Instructions are aligned to their size in an ELF file.
        for at in (0..object.len().saturating_sub(7)).step_by(8) {
            if object[at..at + 8] == mark {
                object.to_mut()[at..at + 8].copy_from_slice(&new);
            }
        }
        object
    }
}

/// The ways that the running kernel may allow, the best first; at least one, and none better than `best`.
pub(super) fn looks(best: Sight) -> Result<Vec<Look>, Unseen> {
    if best == Sight::None {
        return Err(Unseen::Off);
    }
    if fs::read_to_string(LOCKDOWN).is_ok_and(|modes| modes.contains("[confidentiality]")) {
        return Err(Unseen::Lockdown);
    }
    let types = fs::read(Path::new(VMLINUX)).map_err(Unseen::Types)?;
    let btf = Btf::parse(&types).map_err(Unseen::Types)?;
    let fields = Fields::find(&btf)?;
    let cast = btf.function(CAST_FUNCTION).map(|number| Look {
        sight: Sight::Cast,
        places: fields.from(0, CAST),
        cast: Some(number),
    });
    // Whole words of eight bytes, as the kernel copies them.
    let copied = fields.fit().map(|start| Look {
        sight: Sight::Copied,
        places: fields.from(start, COPIED),
        cast: None,
    });
    let looks = cast.into_iter().chain(copied).filter(|look| look.sight <= best);
    match looks.collect::<Vec<_>>() {
        none if none.is_empty() => Err(Unseen::Field { field: "csum_start" }),
        looks => Ok(looks),
    }
}

/// Fields by their word: name and bits.
const FIELDS: [(usize, &str, u32); 8] = [
    (IP_SUMMED, "ip_summed", 2),
    (ENCAPSULATION, "encapsulation", 1),
    (CSUM_START, "csum_start", 16),
    (CSUM_OFFSET, "csum_offset", 16),
    (MAC_HEADER, "mac_header", 16),
    (NETWORK_HEADER, "network_header", 16),
    (INNER_MAC_HEADER, "inner_mac_header", 16),
    (INNER_NETWORK_HEADER, "inner_network_header", 16),
];

/// The first bit of each of [`FIELDS`].
struct Fields([u32; FIELDS.len()]);

impl Fields {
    fn find(btf: &Btf<'_>) -> Result<Self, Unseen> {
        let mut bits = [0; FIELDS.len()];
        for (bit, (_, field, size)) in bits.iter_mut().zip(FIELDS) {
            *bit = match btf.member("sk_buff", field) {
                // A bit field lies within one byte, the others are aligned.
                Some(member) if member.bits == size && (member.at % 8 + size <= 8 || member.at % 16 == 0) => member.at,
                _ => return Err(Unseen::Field { field }),
            };
        }
        Ok(Self(bits))
    }

    /// The offset at which copying has to begin so that all fields are in the copy.
    fn fit(&self) -> Option<u32> {
        let first = self.0.iter().min()? / 64 * 8;
        let end = self
            .0
            .iter()
            .zip(FIELDS)
            .map(|(bit, (_, _, size))| (bit + size).div_ceil(8))
            .max()?;
        (end - first <= SPAN as u32).then_some(first)
    }

    /// The fields' places relative to a byte.
    fn from(&self, start: u32, how: u32) -> [u32; WORDS] {
        let mut places = [0; WORDS];
        (places[HOW], places[START]) = (how, start);
        for (bit, (word, _, size)) in self.0.into_iter().zip(FIELDS) {
            let bit = bit - start * 8;
            places[word] = if size == 16 { bit / 8 } else { bit };
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use taskgate_ebpf::abi::sk_buff::{CAST_MARK, CSUM_OFFSET, CSUM_START, HOW, START};

    use super::{Look, Sight, looks};

    /// Both have always been in one word (since Linux 2.6.22).
    #[test]
    fn the_running_kernels_fields_are_found() {
        let found = looks(Sight::Cast).expect("this kernel describes its types");
        for look in found {
            assert_ne!(look.places[HOW], 0, "{look:?}");
            assert_eq!(look.places[CSUM_START] + 2, look.places[CSUM_OFFSET], "{look:?}");
            assert_eq!(look.places[START] % 8, 0, "{look:?}");
        }
    }

    #[test]
    fn the_kernels_function_takes_the_marks_place() {
        let mark = [&[0x85, 0, 0, 0][..], &CAST_MARK.to_le_bytes()].concat();
        let object = [&[1; 8][..], &mark, &[2; 4]].concat();
        let cast = Look {
            cast: Some(0x0102_0304),
            ..Look::NOT
        };
        let called = [&[1; 8][..], &[0x85, 0x20, 0, 0, 4, 3, 2, 1], &[2; 4]].concat();
        assert_eq!(*cast.link(&object), called);
        let not_called = [&[1; 8][..], &[0xb7, 0, 0, 0, 0, 0, 0, 0], &[2; 4]].concat();
        assert_eq!(*Look::NOT.link(&object), not_called);
    }
}
