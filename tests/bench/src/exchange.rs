//! A connection between two sockets, and the traffic over it in a slice of time.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use testkit::netns::{Netns, PATIENCE};

/// Kinds of exchanges over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// As much data as the connection takes, in one direction.
    Bulk,
    /// A byte there and a byte back, repeatedly.
    Transactions,
}

impl ExchangeKind {
    /// The unit of its rate.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bulk => "Mbit/s",
            Self::Transactions => "transactions/s",
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Bulk => "throughput",
            Self::Transactions => "1-byte transactions",
        })
    }
}

/// The last byte of a slice, and the value of all others.
const LAST: u8 = 1;
const MORE: u8 = 0;
/// The bytes of one write.
const CHUNK: u32 = 128 << 10;

/// Both ends of an open connection.
#[derive(Debug)]
pub struct Exchange {
    kind: ExchangeKind,
    client: TcpStream,
    server: TcpStream,
}

impl Exchange {
    /// Connects a socket in one namespace to a socket in another, at this address.
    pub fn open(kind: ExchangeKind, client: &Netns, server: &Netns, address: IpAddr, port: u16) -> Result<Self> {
        let at = SocketAddr::new(address, port);
        let listener = server
            .bind(|| TcpListener::bind(at))
            .with_context(|| format!("cannot listen on {at}"))?;
        let connect = || TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("cannot connect to {at}"));
        let client = client.run(connect)?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            // A stalled exchange is an error.
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { kind, client, server })
    }

    pub fn kind(&self) -> ExchangeKind {
        self.kind
    }

    /// Sends for this long and returns the rate, in [`ExchangeKind::unit`]. Everything sent has arrived when this
    /// returns.
    pub fn slice(&self, time: Duration) -> Result<f64> {
        let began = Instant::now();
        let count = thread::scope(|scope| {
            let served = scope.spawn(|| self.serve());
            let sent = self.send(began, time);
            served.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            sent
        })?;
        let rate = f64::from(count) / began.elapsed().as_secs_f64();
        Ok(match self.kind {
            ExchangeKind::Bulk => rate * f64::from(CHUNK) * 8.0 / 1e6,
            ExchangeKind::Transactions => rate,
        })
    }

    /// The client's part. Returns the number of chunks or transactions.
    fn send(&self, began: Instant, time: Duration) -> Result<u32> {
        let mut client = &self.client;
        let chunk = vec![MORE; CHUNK as usize];
        let mut count = 0;
        while began.elapsed() < time {
            match self.kind {
                ExchangeKind::Bulk => client.write_all(&chunk)?,
                ExchangeKind::Transactions => {
                    client.write_all(&[MORE])?;
                    client.read_exact(&mut [0])?;
                }
            }
            count += 1;
        }
        client.write_all(&[LAST])?;
        Ok(count)
    }

    fn serve(&self) -> Result<()> {
        let mut server = &self.server;
        let mut buffer = vec![0; CHUNK as usize];
        loop {
            let length = server.read(&mut buffer)?;
            match buffer[..length].last() {
                None => anyhow::bail!("the client is gone"),
                Some(&LAST) => return Ok(()),
                Some(_) if self.kind == ExchangeKind::Transactions => server.write_all(&buffer[..length])?,
                Some(_) => (),
            }
        }
    }
}
