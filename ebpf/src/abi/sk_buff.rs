//! Field offsets in the running kernel's `struct sk_buff`, for fields that `__sk_buff` does not show: user space reads them
//! from the kernel's BTF and passes them to the program as a constant, [`GLOBAL`].

/// The name of the constant in the program: an array of [`WORDS`] words.
pub const GLOBAL: &str = "SK_BUFF";

/// Words of the constant. All are 0 if the program must not read the fields.
pub const WORDS: usize = 10;

/// The word with the access method: 0 (none), [`COPIED`] or [`CAST`].
pub const HOW: usize = 0;
/// The word with the offset where the copy begins in the structure.
pub const START: usize = 1;
/// `ip_summed`: bit offset of the two-bit checksum state. Like all offsets here it counts from the start of the structure,
/// or of the copy.
pub const IP_SUMMED: usize = 2;
/// `encapsulation`: bit offset of the one-bit flag for an inner packet.
pub const ENCAPSULATION: usize = 3;
/// `csum_start`: byte offset of this field of 16 bits, like all below: where summing begins, in bytes from `head`.
pub const CSUM_START: usize = 4;
/// `csum_offset`: bytes from there to the checksum field.
pub const CSUM_OFFSET: usize = 5;
/// `mac_header`: the Ethernet header's offset from `head`.
pub const MAC_HEADER: usize = 6;
/// `network_header`: the IP header's offset from `head`.
pub const NETWORK_HEADER: usize = 7;
/// `inner_mac_header`: the inner packet's Ethernet header, from `head`.
pub const INNER_MAC_HEADER: usize = 8;
/// `inner_network_header`: the inner packet's IP header, from `head`.
pub const INNER_NETWORK_HEADER: usize = 9;

/// The program copies [`SPAN`] bytes and reads the fields there: in every kernel so far they fit.
pub const COPIED: u32 = 1;
/// The program casts its context and reads the structure directly, at almost no cost (Linux 6.2).
pub const CAST: u32 = 2;

/// The length of the copy in bytes.
pub const SPAN: usize = 64;

/// The number of a helper that does not exist. User space replaces it with the kernel function `bpf_cast_to_kern_ctx`:
/// kernel functions have other ids in each kernel, and aya does not resolve them.
pub const CAST_MARK: u32 = 0x7467_6374;

/// The `ip_summed` value of a pending checksum.
pub const CHECKSUM_PARTIAL: u32 = 3;
