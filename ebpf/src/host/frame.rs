//! A frame in memory, with what else a socket buffer says of it.

use crate::{
    abi::LinkId,
    packet::{Checksum, Cut, Ethernet, Frame},
};

/// The work that is left on a frame after the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// See [`Frame::checksum`].
    pub checksum: Option<Checksum>,
    /// See [`Frame::cut`].
    pub cut: Option<Cut>,
}

impl Left {
    /// Nothing.
    pub const NOTHING: Self = Self {
        checksum: None,
        cut: None,
    };
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct HostFrame<'a> {
    /// Its bytes, all of them in reach.
    pub bytes: &'a [u8],
    /// The link that carries it.
    pub link: LinkId,
    /// The first link of the host that received it, see [`Frame::came_by`].
    pub came_by: u32,
    /// Whether the metadata has a VLAN tag.
    pub tagged: bool,
    /// Segments and their size, see [`Frame::segments`].
    pub segments: (u32, u32),
    /// The work that is left on it.
    pub left: Left,
}

impl<'a> HostFrame<'a> {
    /// An untagged frame that is one packet.
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
