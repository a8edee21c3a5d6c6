//! A frame in memory, with the metadata of a socket buffer.

use crate::{
    abi::LinkId,
    packet::{Checksum, Cut, Ethernet, Frame},
};

/// Pending offloads of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// See [`Frame::checksum`].
    pub checksum: Option<Checksum>,
    /// See [`Frame::cut`].
    pub cut: Option<Cut>,
}

impl Left {
    /// No pending offloads.
    pub const NOTHING: Self = Self {
        checksum: None,
        cut: None,
    };
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct HostFrame<'a> {
    /// The bytes, all of them readable.
    pub bytes: &'a [u8],
    /// The link that carries it.
    pub link: LinkId,
    /// The ifindex of the link that received the frame, see [`Frame::came_by`].
    pub came_by: u32,
    /// Whether the metadata has a VLAN tag that names no branch.
    pub tagged: bool,
    /// Segments and their size, see [`Frame::segments`].
    pub segments: (u32, u32),
    /// Its pending offloads.
    pub left: Left,
}

impl<'a> HostFrame<'a> {
    /// An untagged frame with a single packet.
    pub fn new(bytes: &'a [u8], link: LinkId) -> Self {
        Self {
            bytes,
            link,
            came_by: 0,
            tagged: false,
            segments: (0, 0),
            left: Left::NOTHING,
        }
    }
}

impl Ethernet for HostFrame<'_> {
    fn destination(&self) -> Option<[u8; 6]> {
        self.bytes.first_chunk().copied()
    }
}

impl Frame for HostFrame<'_> {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.bytes.get(at as usize..)?.first_chunk::<N>().copied()
    }

    fn link(&self) -> LinkId {
        self.link
    }

    fn came_by(&self) -> u32 {
        self.came_by
    }

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn segments(&self) -> (u32, u32) {
        self.segments
    }

    fn checksum(&self) -> Option<Checksum> {
        self.left.checksum
    }

    fn cut(&self) -> Option<Cut> {
        self.left.cut
    }

    fn opaque(&self, value: u32) -> u32 {
        value
    }
}
