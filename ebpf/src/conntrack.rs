//! The life of a tracked connection: its state, and how long it may be idle.
//!
//! The state is what two ends of a link can know without following sequence numbers:
//!
//! * *replied*, once a packet came back to the initiator; *confirmed*, once the initiator went on after that. TCP is
//!   established from there on: its third packet, or the second exchange of a connection that was picked up midway.
//! * *answered*, once a packet came back after that too. UDP is a stream from there on: it has seen more than one request
//!   and response (EC2 API, `ConnectionTrackingSpecificationRequest`).
//! * TCP is closed after a FIN from both sides, or while the last packet of either side is a RST. The side that really
//!   sent a RST sends nothing else afterwards (RFC 9293, 3.5.2), so what it does send shows that the RST was forged or
//!   out of window and the connection lives.
//! * Once it is closed by a FIN from both sides, and nothing has come for ten seconds, packets that do not open a
//!   connection are late and denied, as AWS has it (VPC User Guide, flow log records: REJECT). Until then they belong to
//!   the closing: the last ACK, and what is sent again because it was lost. A RST does not go so far, since anybody can
//!   forge one: after ten seconds without a packet the rules decide.
//! * A SYN without ACK on a closed pair begins a new connection (RFC 9293, 3.6.1), so it is judged as one.

use crate::abi::{Direction, image::Timeout, tables::state};

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP, over IPv4.
pub const ICMP: u8 = 1;
/// IGMP, over IPv4.
pub const IGMP: u8 = 2;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// TCP header flags (RFC 9293, 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// Whether a TCP packet with these flags opens a connection.
#[inline(always)]
pub const fn opens(protocol: u8, tcp_flags: u8) -> bool {
    protocol == TCP && tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// The state of a connection that `direction` opens.
#[inline(always)]
pub const fn opened_by(direction: Direction) -> u16 {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => state::INGRESS,
    }
}

/// Who opened it.
#[inline(always)]
pub const fn initiator(state: u16) -> Direction {
    if state & state::INGRESS == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

/// The state after one more packet.
#[inline(always)]
pub const fn advance(old: u16, protocol: u8, direction: Direction, tcp_flags: u8) -> u16 {
    let mut new = old;
    if direction as u8 != initiator(old) as u8 {
        new |= state::REPLIED;
    } else if old & state::REPLIED != 0 {
        new |= state::CONFIRMED;
    }
    if protocol == TCP {
        let (fin, reset) = match direction {
            Direction::Egress => (state::FIN_EGRESS, state::RESET_EGRESS),
            Direction::Ingress => (state::FIN_INGRESS, state::RESET_INGRESS),
        };
        if tcp_flags & tcp::FIN != 0 {
            new |= fin;
        }
        if tcp_flags & tcp::RST != 0 {
            new |= reset;
        } else {
            new &= !reset;
        }
    } else if direction as u8 != initiator(old) as u8 && old & state::CONFIRMED != 0 {
        new |= state::ANSWERED;
    }
    new
}

/// Whether both sides of a TCP connection have said that they send no more.
#[inline(always)]
pub const fn finished(state: u16) -> bool {
    const BOTH: u16 = state::FIN_EGRESS | state::FIN_INGRESS;
    state & BOTH == BOTH
}

/// Whether a TCP connection in this state is closed.
#[inline(always)]
pub const fn closed(state: u16) -> bool {
    finished(state) || state & (state::RESET_EGRESS | state::RESET_INGRESS) != 0
}

/// Which time-out an entry of this protocol and state has.
#[inline(always)]
pub const fn timeout_of(protocol: u8, state: u16) -> Timeout {
    match protocol {
        TCP if closed(state) => Timeout::TcpClosed,
        TCP if state & state::CONFIRMED != 0 => Timeout::TcpEstablished,
        TCP => Timeout::TcpHalfOpen,
        UDP if state & state::ANSWERED != 0 => Timeout::UdpStream,
        UDP => Timeout::Udp,
        ICMP | ICMPV6 => Timeout::Icmp,
        _ => Timeout::Other,
    }
}

/// The time-outs in seconds that no setting changes; the others are AWS's defaults. Half-open and closed TCP and ICMP
/// are not documented by AWS (facts: security groups, section 2): 60 and 10 seconds as many trackers have them, and 30
/// as for UDP. Fragments: as long as Linux keeps a datagram in pieces (net.ipv4.ipfrag_time, net.ipv6.ip6frag_time).
pub const fn default_seconds(timeout: Timeout) -> u32 {
    match timeout {
        Timeout::TcpEstablished => 432_000,
        Timeout::TcpHalfOpen | Timeout::FragmentV6 => 60,
        Timeout::TcpClosed => 10,
        Timeout::Udp | Timeout::Icmp | Timeout::FragmentV4 => 30,
        Timeout::UdpStream => 180,
        Timeout::Other => 600,
    }
}

/// Whether what was last seen at `last` has been idle for more than `timeout` ticks. Another CPU may have written a
/// time a little ahead of this one's `now`, which must not look like an age of 2^32.
#[inline(always)]
pub const fn idle(now: u32, last: u32, timeout: u32) -> bool {
    const AHEAD: u32 = 4096;
    now.wrapping_sub(last).wrapping_add(AHEAD) > timeout.saturating_add(AHEAD)
}

#[cfg(test)]
mod tests;
