//! Captures the incoming frames of a link, byte for byte: for frames that have no flow, or hide it.

use std::{cell::RefCell, os::fd::OwnedFd};

use anyhow::{Context as _, Result};

use crate::{
    netns::{Netns, until},
    packet_socket::{drain, listen},
};

/// The frames that a link received. A VLAN tag that the kernel keeps outside of a frame is not among its bytes.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    frames: RefCell<Vec<Vec<u8>>>,
}

/// More than any frame here has.
const LONGEST: usize = 9000;

impl Capture {
    /// Listens on a link from now on.
    pub fn tap(netns: &Netns, link: &str) -> Result<Self> {
        let socket = netns
            .run(|| listen(link, |_| Ok(())))
            .with_context(|| format!("cannot listen on `{link}`"))?;
        let frames = RefCell::default();
        Ok(Self { socket, frames })
    }

    /// The number of frames so far that contain these bytes, at any place.
    pub fn count(&self, bytes: &[u8]) -> Result<usize> {
        self.read()?;
        let holds = |frame: &&Vec<u8>| frame.windows(bytes.len()).any(|part| part == bytes);
        Ok(self.frames.borrow().iter().filter(holds).count())
    }

    /// The first frame that contains these bytes.
    pub fn frame(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.await_bytes(bytes)?;
        let frames = self.frames.borrow();
        let found = frames
            .iter()
            .find(|frame| frame.windows(bytes.len()).any(|part| part == bytes));
        found.cloned().context("it came and is not there")
    }

    /// Waits until a frame with these bytes has arrived.
    pub fn await_bytes(&self, bytes: &[u8]) -> Result<()> {
        until(&format!("a frame with {bytes:?} comes"), || Ok(self.count(bytes)? > 0))
    }

    /// Waits until this many frames with these bytes have arrived.
    pub fn await_count(&self, bytes: &[u8], frames: usize) -> Result<()> {
        until(&format!("{frames} frames with {bytes:?} come"), || {
            Ok(self.count(bytes)? >= frames)
        })
    }

    fn read(&self) -> Result<()> {
        drain::<LONGEST>(&self.socket, |frame, outgoing| {
            if !outgoing {
                self.frames.borrow_mut().push(frame.to_vec());
            }
        })
    }
}
