//! Many different packets in one test run.
//!
//! A test run repeats one packet, and a test run for each packet would measure the entry into the kernel. So a program of
//! a few instructions runs before the measured one: it writes another peer into the packet and jumps on. It runs before
//! the empty program as well, so that its cost cancels out.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::sys::{self, ProgramKind};
use taskgate_ebpf::abi::Direction;

use taskgate_model::Family;

/// The peers that are written into packets: 2 to the power of `bits` different ones, 2 to 20, each once before the first
/// is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variation {
    pub bits: u32,
    pub order: Order,
    /// The packet's family.
    pub family: Family,
    /// The direction of the packet, which must carry TCP or UDP, without options or extension headers.
    pub direction: Direction,
}

/// In which order peers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In ascending order. Entries made in this order are adjacent.
    Rising,
    /// Without a pattern that a CPU could learn, but the same in each pass.
    Random,
}

impl Variation {
    pub const fn new(bits: u32, order: Order, family: Family, direction: Direction) -> Self {
        Self {
            bits,
            order,
            family,
            direction,
        }
    }

    /// Where the low 16 bits of the peer's address lie in the frame, and its port.
    const fn peer(self) -> (i16, i16) {
        match (self.family, self.direction) {
            (Family::V4, Direction::Ingress) => (28, 34),
            (Family::V4, Direction::Egress) => (32, 36),
            (Family::V6, Direction::Ingress) => (36, 54),
            (Family::V6, Direction::Egress) => (52, 56),
        }
    }

    /// Changes to a packet before the jump to the program in `next`; `count` holds the number of packets.
    fn instructions(self, count: BorrowedFd<'_>, next: BorrowedFd<'_>) -> Vec<Instruction> {
        const DATA: i16 = 76;
        const DATA_END: i16 = 80;
        const TAIL_CALL: i32 = 12;
        let (address, port) = self.peer();
        let mask = (1 << self.bits) - 1;
        let half = (self.bits / 2).cast_signed();
        let [count_low, count_high] = Instruction::map(9, Instruction::VALUE_OF_MAP, count);
        let [next_low, next_high] = Instruction::map(2, Instruction::MAP, next);
        // Folding and multiplying by odd numbers: every number below the mask comes once.
        let mix = |factor| {
            [
                Instruction::copy(4, 3),
                Instruction::with(op::RIGHT, 4, half),
                Instruction::new(op::XOR, 3, 4, 0, 0),
                Instruction::with(op::MULTIPLY, 3, factor),
                Instruction::with(op::AND, 3, mask),
            ]
        };
        let mut all = vec![
            Instruction::copy(6, 1),
            Instruction::new(op::LOAD_32, 7, 1, DATA, 0),
            Instruction::new(op::LOAD_32, 8, 1, DATA_END, 0),
            Instruction::copy(2, 7),
            Instruction::with(op::ADD, 2, i32::from(address.max(port)) + 2),
        ];
        let mut rest = vec![
            count_low,
            count_high,
            Instruction::new(op::LOAD_64, 3, 9, 0, 0),
            Instruction::copy(4, 3),
            Instruction::with(op::ADD, 4, 1),
            Instruction::new(op::STORE_64, 9, 4, 0, 0),
            Instruction::with(op::AND, 3, mask),
        ];
        if self.order == Order::Random {
            rest.extend([0x2c1b_3c6d, 0x297a_2d39, 0x5bd1_e995].into_iter().flat_map(mix));
        }
        rest.extend([
            Instruction::copy(4, 3),
            // Few peers lie far apart, so that they meet different rules.
            Instruction::with(op::LEFT, 4, 16 - self.bits.min(16).cast_signed()),
            Instruction::new(op::TO_BIG, 4, 0, 0, 16),
            Instruction::new(op::STORE_16, 7, 4, address, 0),
            Instruction::with(op::RIGHT, 3, 16),
            // No port is 0.
            Instruction::with(op::OR, 3, 0x8000),
            Instruction::new(op::STORE_16, 7, 3, port, 0),
            Instruction::copy(1, 6),
            next_low,
            next_high,
            Instruction::with(op::MOVE, 3, 0),
            Instruction::new(op::CALL, 0, 0, 0, TAIL_CALL),
        ]);
        all.push(Instruction::new(
            op::JUMP_IF_GREATER,
            2,
            8,
            (rest.len() as u16).cast_signed(),
            0,
        ));
        all.extend(rest);
        // Reached if the frame is too short or the jump fails: no program of ours returns this.
        all.extend([
            Instruction::with(op::MOVE, 0, NOT_RUN),
            Instruction::new(op::EXIT, 0, 0, 0, 0),
        ]);
        all
    }
}

/// Return value of a [`Varied`] whose next program did not run.
const NOT_RUN: i32 = 77;

/// A program that varies packets before the next program gets them.
#[derive(Debug)]
pub struct Varied {
    program: OwnedFd,
    /// The program array of the next program; the kernel empties it once no descriptor is open.
    _next: OwnedFd,
}

impl Varied {
    /// Before `program`, of the kind that classifies at tc.
    pub fn before(program: BorrowedFd<'_>, variation: Variation) -> Result<Self> {
        ensure!((2..=20).contains(&variation.bits), "{} bits", variation.bits);
        let count = sys::counter().context("cannot make a counter for packets")?;
        Self::chain(program, |next| variation.instructions(count.as_fd(), next))
    }

    /// Runs before `program`: moves a VLAN tag from a frame's source address into metadata, where drivers and veth links
    /// put it. A test run cannot.
    pub fn tagging(program: BorrowedFd<'_>) -> Result<Self> {
        Self::chain(program, tag_instructions)
    }

    fn chain(program: BorrowedFd<'_>, instructions: impl FnOnce(BorrowedFd<'_>) -> Vec<Instruction>) -> Result<Self> {
        let next = sys::program_array(program).context("cannot put a program behind another one")?;
        let instructions = instructions(next.as_fd());
        let program = load(ProgramKind::Classifier, &instructions)
            .context("the kernel refuses the program that varies packets")?;
        Ok(Self { program, _next: next })
    }
}

/// A packet that has been here keeps its tag.
fn tag_instructions(next: BorrowedFd<'_>) -> Vec<Instruction> {
    const VLAN_PRESENT: i16 = 20;
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    const SOURCE: i16 = 6;
    const VLAN_PUSH: i32 = 18;
    const TAIL_CALL: i32 = 12;
    let [next_low, next_high] = Instruction::map(2, Instruction::MAP, next);
    vec![
        Instruction::copy(6, 1),
        Instruction::new(op::LOAD_32, 2, 1, VLAN_PRESENT, 0),
        Instruction::new(op::JUMP_IF_NOT, 2, 0, 11, 0),
        Instruction::new(op::LOAD_32, 7, 1, DATA, 0),
        Instruction::new(op::LOAD_32, 8, 1, DATA_END, 0),
        Instruction::copy(2, 7),
        Instruction::with(op::ADD, 2, 14),
        Instruction::new(op::JUMP_IF_GREATER, 2, 8, 11, 0),
        Instruction::new(op::LOAD_16, 3, 7, SOURCE, 0),
        Instruction::new(op::TO_BIG, 3, 0, 0, 16),
        Instruction::copy(1, 6),
        Instruction::with(op::MOVE, 2, i32::from(0x8100_u16.to_be())),
        Instruction::new(op::CALL, 0, 0, 0, VLAN_PUSH),
        Instruction::new(op::JUMP_IF_NOT, 0, 0, 5, 0),
        Instruction::copy(1, 6),
        next_low,
        next_high,
        Instruction::with(op::MOVE, 3, 0),
        Instruction::new(op::CALL, 0, 0, 0, TAIL_CALL),
        Instruction::with(op::MOVE, 0, NOT_RUN),
        Instruction::new(op::EXIT, 0, 0, 0, 0),
    ]
}

impl AsFd for Varied {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// A program that does nothing, of the same kind as gates: the baseline for the others.
pub fn empty() -> Result<OwnedFd> {
    const UNSPECIFIED: i32 = -1;
    returning(ProgramKind::Classifier, UNSPECIFIED)
}

/// A program that does nothing, of the kind that runs before a socket buffer exists.
pub fn empty_xdp() -> Result<OwnedFd> {
    const PASS: i32 = 2;
    returning(ProgramKind::Xdp, PASS)
}

fn returning(kind: ProgramKind, value: i32) -> Result<OwnedFd> {
    let instructions = [
        Instruction::with(op::MOVE, 0, value),
        Instruction::new(op::EXIT, 0, 0, 0, 0),
    ];
    load(kind, &instructions).context("the kernel refuses an empty program")
}

/// Codes of instructions.
mod op {
    pub(super) const ADD: u8 = 0x07;
    pub(super) const OR: u8 = 0x47;
    pub(super) const AND: u8 = 0x57;
    pub(super) const LEFT: u8 = 0x67;
    pub(super) const RIGHT: u8 = 0x77;
    pub(super) const TO_BIG: u8 = 0xdc;
    pub(super) const MULTIPLY: u8 = 0x27;
    pub(super) const XOR: u8 = 0xaf;
    pub(super) const MOVE: u8 = 0xb7;
    pub(super) const COPY: u8 = 0xbf;
    pub(super) const LOAD_32: u8 = 0x61;
    pub(super) const LOAD_64: u8 = 0x79;
    pub(super) const LOAD_16: u8 = 0x69;
    pub(super) const JUMP_IF_NOT: u8 = 0x55;
    pub(super) const STORE_16: u8 = 0x6b;
    pub(super) const STORE_64: u8 = 0x7b;
    pub(super) const LOAD_IMMEDIATE: u8 = 0x18;
    pub(super) const JUMP_IF_GREATER: u8 = 0x2d;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
}

fn load(kind: ProgramKind, instructions: &[Instruction]) -> std::io::Result<OwnedFd> {
    let bytes: Vec<_> = instructions.iter().map(|instruction| instruction.bytes()).collect();
    sys::load_instructions(kind, &bytes)
}

/// An instruction (RFC 9669).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const MAP: u8 = 1;
    const VALUE_OF_MAP: u8 = 2;

    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: if cfg!(target_endian = "little") {
                source << 4 | destination
            } else {
                destination << 4 | source
            },
            offset,
            immediate,
        }
    }

    fn bytes(self) -> [u8; 8] {
        let mut bytes = [self.code, self.registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.immediate.to_ne_bytes());
        bytes
    }

    const fn with(code: u8, destination: u8, immediate: i32) -> Self {
        Self::new(code, destination, 0, 0, immediate)
    }

    const fn copy(destination: u8, source: u8) -> Self {
        Self::new(op::COPY, destination, source, 0, 0)
    }

    /// Loads a map, or the address of its value, into a register.
    fn map(destination: u8, what: u8, map: BorrowedFd<'_>) -> [Self; 2] {
        [
            Self::new(op::LOAD_IMMEDIATE, destination, what, 0, map.as_raw_fd()),
            Self::new(0, 0, 0, 0, 0),
        ]
    }
}
