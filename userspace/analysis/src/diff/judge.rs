//! Evaluation of tracked connections: the packet that would open a connection again is judged by the code that the kernel
//! runs.

use std::{collections::HashMap, net::IpAddr, sync::atomic::AtomicU64};

use taskgate_ebpf::{
    abi::{Direction, DropReason, LinkId, Outcome},
    conntrack::initiator,
    flow::{TrackedIcmp, tracked_icmp},
    host::{HostFrame, decide_alone},
    packet::Kind,
    wire::{ICMP, ICMPV6, TCP, UDP, dhcp},
};
use taskgate_tables::{FlowKey, TrackedConn};

use crate::frame::{Message, frame};

/// The most cached answers. Each takes about 100 bytes.
const KEPT: usize = 1 << 18;

/// The properties of a connection that the verdict depends on. Many connections share them: the port of the initiator does
/// not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Opening {
    pub(super) direction: Direction,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) message: Message,
}

impl Opening {
    /// The properties of a connection; `None` for the entry of an ICMP error.
    pub(super) fn of(conn: &TrackedConn) -> Option<Self> {
        /// The first dynamic port (RFC 6335), as the source port, which rules ignore.
        const ANY_PORT: u16 = 49_152;
        let TrackedConn { key, state, .. } = conn;
        let direction = initiator(state.state);
        let (own, other) = key.ports();
        let (source, port) = match direction {
            Direction::Egress => (own, other),
            Direction::Ingress => (other, own),
        };
        let kind = match key {
            FlowKey::V4(_) => Kind::V4,
            FlowKey::V6(_) => Kind::V6,
        };
        let icmp = || tracked_icmp(kind, u32::from(own) << 16 | u32::from(other));
        let message = match (key.conn_protocol(), key) {
            (TCP, _) => Message::Tcp { source: ANY_PORT, port },
            // DHCP is recognised by both ports.
            (UDP, _) if matches!(source, dhcp::CLIENT | dhcp::CLIENT_V6) => Message::Udp { source, port },
            (UDP, _) => Message::Udp { source: ANY_PORT, port },
            (ICMP, FlowKey::V4(_)) => {
                let (kind, code) = asked(icmp(), state.code)?;
                Message::Icmp { kind, code }
            }
            (ICMPV6, FlowKey::V6(_)) => {
                let (kind, code) = asked(icmp(), state.code)?;
                Message::Icmpv6 { kind, code }
            }
            (other, _) => Message::Other(other),
        };
        Some(Self {
            direction,
            local: key.local(),
            remote: key.remote(),
            message,
        })
    }
}

/// Type and code of the ICMP message that opened a connection.
fn asked(icmp: TrackedIcmp, code: u8) -> Option<(u8, u8)> {
    match icmp {
        TrackedIcmp::Request(kind) => Some((kind, code)),
        TrackedIcmp::Other(kind, code) => Some((kind, code)),
        TrackedIcmp::Error => None,
    }
}

/// An image's verdict on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The connection may be opened.
    Allowed,
    /// The connection may not be opened.
    Denied(DropReason),
    /// The packet that would open it cannot be built: its header has more than its type.
    Unclear,
}

/// Evaluates connections at the gates of an image.
pub(super) struct ConnectionJudge<'a> {
    image: &'a [AtomicU64],
    answers: HashMap<(LinkId, Opening), Answer>,
}

impl<'a> ConnectionJudge<'a> {
    /// Uses an image of whole banks.
    pub(super) fn new(image: &'a [AtomicU64]) -> Self {
        Self {
            image,
            answers: HashMap::new(),
        }
    }

    /// Evaluates a connection at the gate of a link.
    pub(super) fn judge(&mut self, link: LinkId, opening: Opening) -> Answer {
        if let Some(answer) = self.answers.get(&(link, opening)) {
            return *answer;
        }
        let answer = self.ask(link, opening);
        if self.answers.len() >= KEPT {
            self.answers.clear();
        }
        self.answers.insert((link, opening), answer);
        answer
    }

    fn ask(&self, link: LinkId, opening: Opening) -> Answer {
        let Opening {
            direction,
            local,
            remote,
            message,
        } = opening;
        let bytes = match direction {
            Direction::Egress => frame(local, remote, message),
            Direction::Ingress => frame(remote, local, message),
        };
        match decide_alone(self.image, &HostFrame::new(&bytes, link), direction).outcome {
            Outcome::Pass(_) => Answer::Allowed,
            Outcome::Drop(DropReason::Malformed) => Answer::Unclear,
            Outcome::Drop(reason) => Answer::Denied(reason),
        }
    }
}
