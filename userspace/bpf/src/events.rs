//! Events of flows' first packets, which the kernel program writes to its ring buffer while there is a subscriber.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{Map, MapData, RingBuf};
use taskgate_ebpf::abi::{Event, map};

use tokio::io::{Interest, unix::AsyncFd};

use super::{load::LoadError, object::BpfObject};

/// The reading end of the ring buffer. There is one ring: with two readers each event reaches only one of them.
pub struct Events {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
}

impl Events {
    /// Opens the ring of a loaded program, on the current tokio runtime.
    pub fn new(object: &BpfObject) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(Map::RingBuf(object.map(map::EVENTS)?));
        let ring = ring.map_err(|cause| LoadError::Map {
            map: map::EVENTS,
            cause,
        })?;
        let ready = ring
            .as_fd()
            .try_clone_to_owned()
            .and_then(|ring| taskgate_net::sys::register(ring, Interest::READABLE));
        let ready = ready.map_err(|cause| LoadError::Open {
            map: map::EVENTS,
            cause,
        })?;
        Ok(Self { ring, ready })
    }

    /// Takes the oldest event; `None` while there is none.
    pub fn take(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.next() {
            if let Some(event) = parse(&item) {
                return Some(event);
            }
        }
        None
    }

    /// Waits for an event and takes it. Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.take() {
                return Ok(event);
            }
            let mut guard = self.ready.readable().await?;
            // An event that came between `take` and this would not make the file ready again.
            guard.clear_ready();
        }
    }
}

/// `None`: the event has another size, so it is of another version.
fn parse(bytes: &[u8]) -> Option<Event> {
    let (words, []) = bytes.as_chunks() else { return None };
    // The kernel runs on this very machine, so its order of bytes is ours.
    let words: Vec<u64> = words.iter().copied().map(u64::from_ne_bytes).collect();
    words.try_into().ok().map(Event::from_words)
}

#[cfg(test)]
mod tests {
    use taskgate_ebpf::abi::Event;

    use super::parse;

    #[test]
    fn an_event_is_read_from_its_bytes() {
        let words = [1_u64 << 40, 2, 3 << 50, 4, 5, 6, 7, 8];
        let bytes = words.map(u64::to_ne_bytes);
        let bytes = bytes.as_flattened();
        assert_eq!(parse(bytes), Some(Event::from_words(words)));
        assert_eq!([&bytes[1..], &bytes[8..], &[]].map(parse), [None; 3]);
    }
}
