//! Where the running kernel's `struct sk_buff` has what `__sk_buff` does not show: user space reads it from the kernel's
//! BTF and hands it to the program as a constant, [`GLOBAL`].

/// The name of the constant in the program: an array of [`WORDS`] words.
pub const GLOBAL: &str = "SK_BUFF";

/// Words of the constant. All are 0 where the program does not look.
pub const WORDS: usize = 10;

/// How the program looks: 0, [`COPIED`] or [`CAST`].
pub const HOW: usize = 0;
/// Where copying begins in the structure.
pub const START: usize = 1;
/// The place in bits of `ip_summed`, two bits: how far the checksum is. As all places it counts from the structure's
/// beginning, or from the copy's.
pub const IP_SUMMED: usize = 2;
/// The place in bits of `encapsulation`, one bit: whether there is a packet in the packet.
pub const ENCAPSULATION: usize = 3;
/// The place in bytes of `csum_start`, as all below of 16 bits: where summing begins, in bytes from the buffer's head.
pub const CSUM_START: usize = 4;
/// Of `csum_offset`: bytes from there to where the sum is written.
pub const CSUM_OFFSET: usize = 5;
/// Of `mac_header`: where the Ethernet header begins, from the head.
pub const MAC_HEADER: usize = 6;
/// Of `network_header`: the IP header's offset from `head`.
pub const NETWORK_HEADER: usize = 7;
/// Of `inner_mac_header`: the inner packet's Ethernet header, from `head`.
pub const INNER_MAC_HEADER: usize = 8;
/// Of `inner_network_header`: the inner packet's IP header, from `head`.
pub const INNER_NETWORK_HEADER: usize = 9;

/// The program copies [`SPAN`] bytes and reads the fields there. In every kernel so far they are that close together.
pub const COPIED: u32 = 1;
/// The program casts its context and looks at the structure itself, which costs next to nothing (Linux 6.2).
pub const CAST: u32 = 2;

/// Bytes that are copied.
pub const SPAN: usize = 64;

/// The number of a helper that there is none of. In its place user space puts the kernel's `bpf_cast_to_kern_ctx`: a
/// function of the kernel's has another number in each kernel, and aya does not look them up.
pub const CAST_MARK: u32 = 0x7467_6374;

/// `ip_summed` of a checksum that is yet to be filled in.
pub const CHECKSUM_PARTIAL: u32 = 3;
