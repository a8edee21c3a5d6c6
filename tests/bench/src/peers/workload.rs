//! The repeated and counted operations of a slice. Both ends of connections and datagrams are on one thread, so that only
//! packets connect them.

use std::{
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use taskgate_model::Family;
use testkit::netns::{Netns, PATIENCE};

use super::rules::{SHUT_PORT, Transport};
use crate::{exchange, rules::OPEN_PORT};

/// Counted operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Bytes on one TCP connection.
    Throughput,
    /// A byte there and a byte back on one TCP connection.
    Transactions,
    /// TCP connections, each opened, used for a byte each way, and closed from both sides.
    Connections,
    /// Datagrams in one flow that arrive.
    Datagrams,
    /// Datagrams in one flow that are dropped.
    Denied,
}

impl Workload {
    pub const ALL: [Self; 5] = [
        Self::Throughput,
        Self::Transactions,
        Self::Connections,
        Self::Datagrams,
        Self::Denied,
    ];

    /// The unit of its rate.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Throughput => exchange::ExchangeKind::Bulk.unit(),
            Self::Transactions => exchange::ExchangeKind::Transactions.unit(),
            Self::Connections => "connections/s",
            Self::Datagrams | Self::Denied => "packets/s",
        }
    }

    /// The protocol of the server's task.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Throughput | Self::Transactions | Self::Connections => Transport::Tcp,
            Self::Datagrams | Self::Denied => Transport::Udp,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throughput => exchange::ExchangeKind::Bulk.fmt(to),
            Self::Transactions => exchange::ExchangeKind::Transactions.fmt(to),
            Self::Connections => to.write_str("connections"),
            Self::Datagrams => to.write_str("UDP packets"),
            Self::Denied => to.write_str("denied packets"),
        }
    }
}

/// Everything that is measured on a host, in the order of the tables' rows.
pub const SERIES: [(Workload, Family); 10] = {
    let mut series = [(Workload::Throughput, Family::V4); 10];
    let mut at = 0;
    while at < series.len() {
        let family = if at % 2 == 0 { Family::V4 } else { Family::V6 };
        series[at] = (Workload::ALL[at / 2], family);
        at += 1;
    }
    series
};

/// Datagrams that are sent before any is received: as many as fit into any socket's buffer.
const BATCH: u32 = 32;
const DATA: [u8; 32] = *b"a datagram of thirty-two letters";

/// Calls `once` until the time is over, and returns the sum of its counts per second.
fn rate(time: Duration, mut once: impl FnMut() -> Result<u32>) -> Result<f64> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        count += once()?;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// Opens connections to a server that listens here.
#[derive(Debug)]
pub(super) struct Connections {
    listener: TcpListener,
    at: SocketAddr,
}

impl Connections {
    pub(super) fn open(server: &Netns, at: SocketAddr) -> Result<Self> {
        let listener = server
            .bind(|| TcpListener::bind(at))
            .with_context(|| format!("cannot listen on {at}"))?;
        Ok(Self { listener, at })
    }

    pub(super) fn slice(&self, client: &Netns, time: Duration) -> Result<f64> {
        client.run(|| rate(time, || self.once().map(|()| 1)))
    }

    /// A connection from its first packet to its last.
    fn once(&self) -> Result<()> {
        let mut client = TcpStream::connect_timeout(&self.at, PATIENCE)?;
        let (mut server, _) = self.listener.accept()?;
        client.write_all(&[1])?;
        client.shutdown(Shutdown::Write)?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
        }
        let mut all = Vec::new();
        server.read_to_end(&mut all)?;
        server.write_all(&all)?;
        drop(server);
        client.read_to_end(&mut all)?;
        ensure!(all == [1, 1], "{} bytes went over a connection, not 2", all.len());
        Ok(())
    }
}

/// Two sockets of a server, one on the port that is allowed and one on a port that is not, and a socket for each that sends
/// to it.
#[derive(Debug)]
pub(super) struct Datagrams {
    open: [UdpSocket; 2],
    shut: [UdpSocket; 2],
    /// A socket of the client that sends nothing.
    silent: UdpSocket,
}

impl Datagrams {
    pub(super) fn open(client: &Netns, from: SocketAddr, server: &Netns, to: SocketAddr) -> Result<Self> {
        let pair = |port| -> Result<[UdpSocket; 2]> {
            let at = SocketAddr::new(to.ip(), port);
            let receiver = server
                .bind(|| UdpSocket::bind(at))
                .with_context(|| format!("cannot bind to {at}"))?;
            let sender = client.bind(|| UdpSocket::bind(from))?;
            sender.connect(at)?;
            for socket in [&sender, &receiver] {
                socket.set_read_timeout(Some(PATIENCE))?;
            }
            Ok([sender, receiver])
        };
        let datagrams = Self {
            open: pair(OPEN_PORT)?,
            shut: pair(SHUT_PORT)?,
            silent: client.bind(|| UdpSocket::bind(from))?,
        };
        // Without an answer a flow stays new to netfilter, and each datagram would meet all rules.
        datagrams.pass_batch(1)?;
        datagrams.answer()?;
        Ok(datagrams)
    }

    /// Sends datagrams to the allowed port and receives each of them.
    pub(super) fn pass(&self, time: Duration) -> Result<f64> {
        rate(time, || self.pass_batch(BATCH))
    }

    fn pass_batch(&self, count: u32) -> Result<u32> {
        let [sender, receiver] = &self.open;
        for _ in 0..count {
            sender.send(&DATA)?;
        }
        for _ in 0..count {
            let length = receiver
                .recv(&mut [0; 64])
                .context("an allowed datagram did not arrive")?;
            ensure!(length == DATA.len(), "{length} bytes arrived");
        }
        Ok(count)
    }

    /// Sends to the port that is not allowed. Returns the rate and the number of datagrams; an arrival is an error.
    pub(super) fn deny(&self, time: Duration) -> Result<(f64, u64)> {
        let mut sent = 0;
        let rate = rate(time, || {
            for _ in 0..BATCH {
                self.shut[0].send(&DATA)?;
            }
            sent += u64::from(BATCH);
            Ok(BATCH)
        })?;
        ensure!(!self.denied_arrives()?, "a denied datagram arrived");
        Ok((rate, sent))
    }

    /// Sends a datagram to each port. Returns whether the one to the port that is not allowed arrives.
    pub(super) fn shut_port_passes(&self) -> Result<bool> {
        self.shut[0].send(&DATA)?;
        self.denied_arrives()
    }

    /// Whether a datagram arrived at the port that is not allowed, among those sent there so far.
    fn denied_arrives(&self) -> Result<bool> {
        // Packets of one direction arrive in order.
        self.pass_batch(1)?;
        came(&self.shut[1])
    }

    /// Sends a datagram back from the allowed port.
    fn answer(&self) -> Result<()> {
        let [asker, asked] = &self.open;
        asked.send_to(&DATA, asker.local_addr()?)?;
        asker.recv(&mut [0; 64]).context("an answer did not arrive")?;
        Ok(())
    }

    /// Whether a datagram that the client did not ask for reaches it.
    pub(super) fn client_is_reached(&self) -> Result<bool> {
        self.open[1].send_to(&DATA, self.silent.local_addr()?)?;
        // The answer follows on the same path.
        self.answer()?;
        came(&self.silent)
    }
}

/// Whether a datagram has arrived.
fn came(socket: &UdpSocket) -> Result<bool> {
    socket.set_nonblocking(true)?;
    let came = match socket.recv(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        came => came.map(|_| true)?,
    };
    socket.set_nonblocking(false)?;
    Ok(came)
}
