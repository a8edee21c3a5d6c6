//! A TCP connection with continuous data in one direction.
#![expect(unsafe_code, reason = "a socket option that nix does not have")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::SndBuf};

use super::PATIENCE;
use crate::{
    ledger::Flow,
    netns::{Netns, until},
};

/// Bytes per second: many packets, but few enough to be counted.
const PACE: u32 = 2 << 20;
/// The period of the data. No packet's payload is a multiple of it, so a missing packet shows.
const PERIOD: usize = 251;

/// A transfer that continues until it is finished.
#[derive(Debug)]
pub struct Bulk {
    flow: Flow,
    done: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    ends: Vec<TcpStream>,
    writer: Option<JoinHandle<Result<u64>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

/// Bytes that a rush has on its way; the kernel doubles them, and packets take nearly twice their bytes.
const RUSH_BUFFER: usize = 64 << 10;

impl Bulk {
    /// Connects from `sender` to `to`, an address of `receiver`, and sends slowly enough that every packet can be
    /// counted.
    pub fn start(sender: &Netns, receiver: &Netns, to: SocketAddr) -> Result<Self> {
        Self::start_at(sender, receiver, to, Some(PACE))
    }

    /// [`Bulk::start`] without a limit of its rate.
    pub fn rush(sender: &Netns, receiver: &Netns, to: SocketAddr) -> Result<Self> {
        Self::start_at(sender, receiver, to, None)
    }

    fn start_at(sender: &Netns, receiver: &Netns, to: SocketAddr, pace: Option<u32>) -> Result<Self> {
        let listener = receiver
            .bind(|| TcpListener::bind(to))
            .with_context(|| format!("cannot listen on {to}"))?;
        let stream = sender.run(|| TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect"))?;
        match pace {
            Some(pace) => slow_down(&stream, pace)?,
            // Less on its way than a veth's ring holds (256 packets, `VETH_RING_SIZE`): behind a slow processor the rest would be lost
            // between the wire and the gate.
            None => setsockopt(&stream, SndBuf, &RUSH_BUFFER).context("cannot set a buffer's size")?,
        }
        let flow = Flow::tcp(stream.local_addr()?, to);
        let (accepted, _) = listener.accept()?;
        let ends = vec![stream.try_clone()?, accepted.try_clone()?];
        let done = Arc::<AtomicBool>::default();
        let received = Arc::<AtomicU64>::default();
        let writer = thread::spawn({
            let done = Arc::clone(&done);
            move || write(stream, &done)
        });
        let reader = thread::spawn({
            let received = Arc::clone(&received);
            move || read(accepted, &received)
        });
        Ok(Self {
            flow,
            done,
            received,
            ends,
            writer: Some(writer),
            reader: Some(reader),
        })
    }

    /// The flow of the data.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// How many bytes have come through.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Waits until this many more bytes have arrived.
    pub fn await_more(&self, bytes: u64) -> Result<()> {
        let goal = self.received() + bytes;
        until(&format!("{bytes} more bytes come through on {:?}", self.flow), || {
            Ok(self.received() >= goal)
        })
    }

    /// Sends no more, and waits until all has come through and both ends are closed.
    pub fn finish(mut self) -> Result<()> {
        self.done.store(true, Relaxed);
        let end = Instant::now() + PATIENCE;
        let (writer, reader) = (self.writer.take(), self.reader.take());
        let (Some(writer), Some(reader)) = (writer, reader) else {
            return Ok(());
        };
        while !reader.is_finished() {
            ensure!(Instant::now() < end, "{:?} does not end", self.flow);
            thread::sleep(Duration::from_millis(5));
        }
        let sent = writer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        reader.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        ensure!(sent == self.received(), "of {sent} bytes {} came", self.received());
        Ok(())
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        for end in &self.ends {
            // Shutting down a closed connection fails, which is no error here.
            end.shutdown(Shutdown::Both).ok();
        }
    }
}

fn write(mut stream: TcpStream, done: &AtomicBool) -> Result<u64> {
    let data: Vec<u8> = (0..64 * PERIOD).map(|at| (at % PERIOD) as u8).collect();
    let mut sent = 0;
    while !done.load(Relaxed) {
        stream.write_all(&data)?;
        sent += data.len() as u64;
    }
    // The peer closes once it has received everything.
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut [0; 1])? == 0, "something came back");
    Ok(sent)
}

fn read(mut stream: TcpStream, received: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            stream.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        for byte in &buffer[..length] {
            ensure!(usize::from(*byte) == at % PERIOD, "byte {at} is not what was sent");
            at += 1;
        }
        received.fetch_add(length as u64, Relaxed);
    }
}

fn slow_down(stream: &TcpStream, pace: u32) -> Result<()> {
    // SAFETY: the option takes a 32-bit number; the pointer and the length are those of a `u32`.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const pace).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    ensure!(set == 0, "cannot pace: {}", std::io::Error::last_os_error());
    Ok(())
}
