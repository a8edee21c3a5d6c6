//! TCP.
#![expect(unsafe_code, reason = "an address without a family, which nix does not have")]

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::shutdown;

use super::{DENIED, PATIENCE};
use crate::{ledger::Flow, netns::Netns};

/// An echo server over IPv4 and IPv6, for any number of clients.
#[derive(Debug)]
pub struct TcpEcho {
    listener: Arc<TcpListener>,
    open: Arc<Mutex<Vec<Open>>>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

/// A connection to the server, and whether its end is expected and not reported.
type Open = (TcpStream, Arc<AtomicBool>);

impl TcpEcho {
    /// Listens on a port of every address in `netns`.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = netns
            .bind(|| TcpListener::bind(any))
            .with_context(|| format!("cannot listen on port {port}"))?;
        let listener = Arc::new(listener);
        let open = Arc::<Mutex<Vec<Open>>>::default();
        let acceptor = thread::spawn({
            let (listener, open) = (Arc::clone(&listener), Arc::clone(&open));
            move || {
                let mut servers = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    let aborted = Arc::<AtomicBool>::default();
                    if let Ok(second) = stream.try_clone() {
                        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                        open.push((second, Arc::clone(&aborted)));
                    }
                    servers.push(thread::spawn(move || serve(stream, &aborted)));
                }
                servers
            }
        });
        Ok(Self {
            listener,
            open,
            acceptor: Some(acceptor),
        })
    }
}

impl TcpEcho {
    /// The number of connections.
    pub fn accepted(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sends something on every open connection, unasked.
    pub fn say(&self, data: &[u8]) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter_mut().try_for_each(|(stream, _)| Ok(stream.write_all(data)?))
    }

    /// Ends every connection with a reset, of which nothing is sent twice.
    pub fn abort(&self) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.drain(..).try_for_each(|(stream, aborted)| {
            aborted.store(true, Relaxed);
            reset(&stream)
        })
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        // Wakes a thread that waits in accept.
        shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
        let servers = self.acceptor.take().map(JoinHandle::join);
        if let Err(error) = self.abort() {
            eprintln!("{error:#}");
        }
        for server in servers.into_iter().flatten().flatten() {
            server.join().ok();
        }
    }
}

/// Echoes received bytes until the peer closes or the connection is reset.
fn serve(mut stream: TcpStream, aborted: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    // The connection has other owners too, so dropping it here would not close it.
    if !aborted.load(Relaxed) {
        stream.shutdown(Shutdown::Both).ok();
    }
}

/// An open connection to a [`TcpEcho`].
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    flow: Flow,
}

impl Client {
    /// Connects to `to`, which must succeed.
    pub fn connect(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let client = connect(netns, to, PATIENCE)?;
        client.with_context(|| format!("no answer from {to} to `{}`", netns.label()))
    }

    /// Connects to a port without a listener, which must be refused: two packets.
    pub fn connect_refused(netns: &Netns, to: SocketAddr) -> Result<()> {
        let answer = probe(netns, to)?;
        ensure!(answer == Answer::Refused, "the answer from {to} is {answer:?}");
        Ok(())
    }

    /// The flow of the packets that this sends.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Sends this many bytes and receives them back.
    pub fn echo(&mut self, bytes: usize) -> Result<()> {
        ensure!(
            self.exchange(bytes, PATIENCE)?,
            "no echo on {:?} within {PATIENCE:?}",
            self.flow
        );
        Ok(())
    }

    /// Waits for the next bytes, which must be `data`.
    pub fn expect(&mut self, data: &[u8]) -> Result<()> {
        let mut came = vec![0; data.len()];
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let read = self.stream.read_exact(&mut came);
        read.with_context(|| format!("nothing came on {:?}", self.flow))?;
        ensure!(came == data, "{came:?} came on {:?} and not {data:?}", self.flow);
        Ok(())
    }

    /// Sends a few bytes. Returns whether they came back soon.
    pub fn echoes(&mut self) -> Result<bool> {
        self.exchange(64, DENIED)
    }

    /// Sends part after part, so that the bytes in flight always fit into the socket buffers.
    fn exchange(&mut self, bytes: usize, patience: Duration) -> Result<bool> {
        const PART: usize = 32 << 10;
        let data: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let mut back = vec![0; PART];
        self.stream.set_read_timeout(Some(patience))?;
        for part in data.chunks(PART) {
            let back = &mut back[..part.len()];
            let exchanged = self.stream.write_all(part).and_then(|()| self.stream.read_exact(back));
            match exchanged {
                Ok(()) => ensure!(back == part, "the echo on {:?} is not what was sent", self.flow),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
                Err(error) => return Err(error).with_context(|| format!("{:?} broke", self.flow)),
            }
        }
        Ok(true)
    }

    /// Closes the connection with a reset, and without retransmissions: data that cannot get through would be sent again
    /// and again.
    pub fn abort(self) -> Result<Flow> {
        reset(&self.stream)?;
        Ok(self.flow)
    }

    /// Closes the connection in order. All but the last acknowledgement has been sent when this returns.
    pub fn finish(mut self) -> Result<Flow> {
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let rest = self.stream.read(&mut [0; 1]).context("the other side does not close")?;
        ensure!(rest == 0, "more came back than was sent");
        Ok(self.flow)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A listener accepted the connection.
    Open,
    /// The port has no listener, and the other side refused: the SYN reached it.
    Refused,
    Silence,
}

/// Sends a SYN and returns the kind of answer.
pub fn probe(netns: &Netns, to: SocketAddr) -> Result<Answer> {
    probe_for(netns, to, Answer::Silence)
}

/// [`probe`], which waits for an expected answer long enough for a busy machine: until the SYN was retransmitted.
pub fn probe_for(netns: &Netns, to: SocketAddr, expected: Answer) -> Result<Answer> {
    let patience = if expected == Answer::Silence { DENIED } else { PATIENCE };
    netns.run(|| match TcpStream::connect_timeout(&to, patience) {
        Ok(_) => Ok(Answer::Open),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Answer::Refused),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Answer::Silence),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {to}")),
    })
}

/// Ends a connection at once, even if other processes hold it, with a reset if the peer needs to know.
fn reset(stream: &TcpStream) -> Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    let end = Instant::now() + PATIENCE;
    loop {
        // SAFETY: the pointer is to a whole `sockaddr`, and the length is its size.
        if unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // Some kernels, 5.10 among them, refuse this with EBUSY while a thread reads the socket: shut down reading first,
        // then try again.
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > end {
            return Err(error).context("cannot reset a connection");
        }
        stream.shutdown(Shutdown::Read).ok();
        thread::sleep(Duration::from_millis(1));
    }
}

/// Tries to connect with a single SYN and gives up soon. `None`: no answer.
pub fn try_connect(netns: &Netns, to: SocketAddr) -> Result<Option<Client>> {
    connect(netns, to, DENIED)
}

fn connect(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<Option<Client>> {
    let stream = netns.run(|| match TcpStream::connect_timeout(&to, patience) {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
        stream => Ok(Some(stream.with_context(|| format!("cannot connect to {to}"))?)),
    })?;
    let Some(stream) = stream else {
        return Ok(None);
    };
    let flow = Flow::tcp(plain(stream.local_addr()?), to);
    Ok(Some(Client { stream, flow }))
}

/// An address without scope, as in records.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&address.ip()), address.port())
}
