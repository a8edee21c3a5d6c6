//! What is told of a flow's first packet.

/// The first packet of a flow, for whoever follows: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// The task's address: upper and lower half; IPv4 is mapped (`::ffff:a.b.c.d`).
    pub local: [u64; 2],
    /// The peer's address, likewise.
    pub remote: [u64; 2],
    /// As in [`super::Key4`].
    pub ports: u32,
    /// [`super::denial_tail`], with the outcome's number in place of the reason.
    pub tail: u32,
    /// The rule that allowed it, or 0.
    pub rule: u32,
    /// When, in ticks.
    pub time: u32,
    /// IP bytes of the packet.
    pub bytes: u32,
    /// TCP flags of the packet.
    pub tcp_flags: u32,
    /// The generation that judged it.
    pub generation: u32,
    /// Not used yet.
    pub spare: u32,
}
