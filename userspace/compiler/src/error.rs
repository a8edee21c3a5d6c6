//! Errors of compiling a model and writing it to an image.

use std::net::IpAddr;

use taskgate_ebpf::abi::image::{BANK_BYTES, MAX_RULES};
use taskgate_model::{Direction, Family};

/// Why a model could not be compiled or written to the image. Whatever the kernel reads is unchanged then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A policy has more rules than a bitmap has bits.
    #[error(
        "cannot compile the {direction} rules of {groups} for {}: {rules} rules, at most {MAX_RULES}; remove rules or groups",
        name(*family)
    )]
    TooManyRules {
        /// The groups, in the order of the ENI.
        groups: String,
        /// Which rules.
        direction: Direction,
        /// Of which family.
        family: Family,
        /// How many there are.
        rules: usize,
    },
    /// A policy does not fit into one bank.
    #[error(
        "cannot compile the {direction} rules of {groups} for {}: they take {bytes} bytes, at most {BANK_BYTES}; shorten the prefix lists",
        name(*family)
    )]
    PolicyTooLarge {
        /// The groups, in the order of the ENI.
        groups: String,
        /// Which rules.
        direction: Direction,
        /// Of which family.
        family: Family,
        /// How much memory they would take.
        bytes: usize,
    },
    /// Every rule number was used.
    #[error("cannot number the {direction} rules of `{group}`: every rule number was used; start taskgate anew")]
    RuleNumbersExhausted {
        /// The group's id.
        group: String,
        /// Which rules.
        direction: Direction,
    },
    /// Two ENIs claim an address, and the image has one row for it.
    #[error("cannot tell whose address {address} is: both `{first}` and `{second}` have it; give each its own")]
    AddressConflict {
        /// The address.
        address: IpAddr,
        /// The first ENI with it.
        first: String,
        /// The second ENI with it.
        second: String,
    },
    /// The given memory cannot hold an image.
    #[error("cannot use {bytes} bytes as an image: it takes at least {banks} whole banks of {BANK_BYTES}")]
    NotAnImage {
        /// The memory's size in bytes.
        bytes: usize,
        /// The fewest banks of an image.
        banks: u32,
    },
    /// The given memory is not empty.
    #[error("cannot start an image in memory that holds one already; begin with an empty one")]
    NotEmpty,
    /// No gap in the policy banks is long enough.
    #[error(
        "cannot place a policy of {bytes} bytes in the image: the longest gap has {largest}; start with more banks"
    )]
    PoliciesFull {
        /// The policy's size.
        bytes: u32,
        /// The longest gap.
        largest: u32,
    },
    /// There are more addresses than the largest image has rows for.
    #[error(
        "cannot compile {addresses} addresses of group members and exempt hosts: an image has room for {most} at most; \
         remove some, or name networks in prefix lists"
    )]
    TooManyMembers {
        /// How many there are.
        addresses: usize,
        /// The most addresses that an image can have.
        most: usize,
    },
    /// There are more addresses than this image has rows for.
    #[error(
        "cannot bring {addresses} addresses of group members and exempt hosts into an image with room for {room}: restart \
         taskgate, which takes its gates and connections over with a larger one"
    )]
    MembersFull {
        /// How many there are.
        addresses: usize,
        /// The room in this image.
        room: u32,
    },
    /// Every slot is in use.
    #[error("cannot give `{eni}` a slot: all {} are taken; remove tasks", taskgate_ebpf::abi::image::SLOTS - 1)]
    SlotsFull {
        /// The ENI.
        eni: String,
    },
    /// A table has no row left.
    #[error(
        "cannot add {key} to `{table}`: all {rows} rows are taken, those included that the configuration in force leaves; \
         restart taskgate, which takes its gates and connections over with a new image"
    )]
    RowsFull {
        /// `links` or `members`.
        table: &'static str,
        /// The link or address.
        key: String,
        /// The number of rows.
        rows: u32,
    },
    /// Every word on the search path of the key holds another key.
    #[error(
        "cannot add {key} to `{table}`: all {} words that it may stand in are taken",
        taskgate_ebpf::abi::image::PROBES
    )]
    ProbesExhausted {
        /// `links` or `members`.
        table: &'static str,
        /// The link or address.
        key: String,
    },
    /// A slot without an ENI.
    #[error("cannot use slot {slot}: no ENI has it")]
    UnknownSlot {
        /// The slot.
        slot: u16,
    },
}

/// The name of a family in messages.
pub(super) fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
