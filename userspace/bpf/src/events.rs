//! The first packets of flows, as the kernel program puts them on its ring while somebody follows.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{Map, MapData, RingBuf};
use taskgate_ebpf::abi::{Event, map};

use tokio::io::{Interest, unix::AsyncFd};

use super::{load::LoadError, object::Object};

/// The ring's reading end. It is one ring: of two readers each event reaches one.
pub struct Events {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
}

impl Events {
    /// Opens the ring of a loaded program, on the tokio runtime around the call.
    pub fn new(object: &Object) -> Result<Self, LoadError> {
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
            // What came between the two looks would not make it ready again.
            guard.clear_ready();
        }
    }
}

/// `None`: it is of another size, so of another version.
fn parse(bytes: &[u8]) -> Option<Event> {
    let bytes: &[u8; size_of::<Event>()] = bytes.try_into().ok()?;
    // The kernel runs on this very machine, so its order of bytes is ours.
    let short = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| {
        let mut long = [0; 8];
        long.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(long)
    };
    Some(Event {
        local: [long(0), long(8)],
        remote: [long(16), long(24)],
        ports: short(32),
        tail: short(36),
        rule: short(40),
        time: short(44),
        bytes: short(48),
        tcp_flags: short(52),
        generation: short(56),
        spare: short(60),
    })
}

#[cfg(test)]
mod tests {
    use taskgate_ebpf::abi::Event;

    use super::parse;

    #[test]
    fn an_event_is_read_field_by_field() {
        let longs = [1_u64 << 40, 2, 3 << 50, 4].map(u64::to_ne_bytes);
        let shorts = [5_u32, 6, 7, 8, 9, 10, 11, 12].map(u32::to_ne_bytes);
        let bytes = [longs.as_flattened(), shorts.as_flattened()].concat();
        let event = Event {
            local: [1 << 40, 2],
            remote: [3 << 50, 4],
            ports: 5,
            tail: 6,
            rule: 7,
            time: 8,
            bytes: 9,
            tcp_flags: 10,
            generation: 11,
            spare: 12,
        };
        assert_eq!(parse(&bytes), Some(event));
        assert_eq!(parse(&bytes[1..]), None);
    }
}
