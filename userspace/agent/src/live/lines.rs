//! Lists tracked connections as lines of JSON, in pieces.

use std::{collections::BTreeMap, io};

use taskgate_analysis::{diff::admitting_rule, display::protocol_word};
use taskgate_api::{ConnectionPhase, ConnectionsQuery, FlowTotals, TrackedConnection};
use taskgate_bpf::reader::ReadPosition;
use taskgate_ebpf::{
    abi::{image::Timeout, tables::state},
    conntrack::{idle, initiator, timeout_of},
    flow::{TrackedIcmp, tracked_icmp},
    packet::Kind,
    wire::{ICMP, ICMPV6, TCP, UDP},
};
use taskgate_model::Eni;
use taskgate_tables::{FlowKey, TrackedConn, full_generation};

use super::{
    LiveView, PIECE,
    query::{QueryError, Wanted},
};

/// The listing of the requested connections.
#[derive(Debug)]
pub(crate) struct ConnectionLines {
    view: LiveView,
    wanted: Wanted,
    tasks: BTreeMap<u16, SlotName>,
    next: Option<ReadPosition>,
}

/// The names of a slot's ENI.
#[derive(Debug)]
struct SlotName {
    task: Option<String>,
    eni: String,
}

impl ConnectionLines {
    /// Starts the listing of the connections that match a query.
    pub(crate) fn new(view: LiveView, query: &ConnectionsQuery) -> Result<Self, QueryError> {
        let wanted = Wanted::new(&view, query)?;
        let name = |eni: &Eni| SlotName {
            task: eni.task.clone(),
            eni: eni.id.clone(),
        };
        let tasks = view.enis().into_iter().map(|(slot, eni)| (slot, name(eni))).collect();
        let next = Some(ReadPosition::default());
        Ok(Self {
            view,
            wanted,
            tasks,
            next,
        })
    }

    /// The next lines; `None` at the end. Reads on until there is a line to return, but returns an empty piece after
    /// `SILENT` pieces without one, so that a gone client is noticed.
    pub(crate) fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        /// Maximum number of pieces without a line that are read in one call.
        const SILENT: usize = 64;
        let (view, wanted, tasks) = (&self.view, &self.wanted, &self.tasks);
        let now = view.reader.now()?;
        let mut lines = Vec::new();
        for _ in 0..SILENT {
            let Some(from) = self.next else { break };
            let mut failed = Ok(());
            self.next = view.reader.read(from, PIECE, &mut |conn| {
                if wanted.covers(conn) && failed.is_ok() {
                    failed = serde_json::to_writer(&mut lines, &described(view, tasks, conn, now));
                    lines.push(b'\n');
                }
            });
            failed?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
        Ok(self.next.map(|_| lines))
    }
}

fn described(view: &LiveView, tasks: &BTreeMap<u16, SlotName>, conn: &TrackedConn, now: u32) -> TrackedConnection {
    let TrackedConn { key, state, .. } = conn;
    let name = tasks.get(&state.slot);
    let protocol = key.conn_protocol();
    let (own, other) = key.ports();
    let ports = matches!(protocol, TCP | UDP).then_some((own, other));
    let icmp = match (protocol, key) {
        (ICMP, FlowKey::V4(_)) => Some(opened(tracked_icmp(Kind::V4, packed(own, other)), state.code, other)),
        (ICMPV6, FlowKey::V6(_)) => Some(opened(tracked_icmp(Kind::V6, packed(own, other)), state.code, other)),
        _ => None,
    };
    let ticks = view.reader.ticks_per_second();
    // Another CPU may have written a time that is slightly in the future.
    let idle = now.wrapping_sub(state.last).cast_signed().max(0).cast_unsigned() / ticks;
    let [egress, ingress] = state.totals.map(|total| FlowTotals {
        packets: total.packets,
        bytes: total.bytes,
    });
    TrackedConnection {
        task: name.and_then(|name| name.task.clone()),
        eni: name.map(|name| name.eni.clone()),
        direction: initiator(state.state).to_string(),
        protocol: protocol_word(protocol),
        local: key.local(),
        local_port: ports.map(|(own, _)| own),
        peer: key.remote(),
        peer_port: ports.map(|(_, other)| other),
        icmp_type: icmp.map(|(kind, _)| kind),
        icmp_code: icmp.map(|(_, code)| code),
        state: phase(view, conn, now),
        flags: state::NAMES
            .into_iter()
            .filter(|(bit, _)| state.state & bit != 0)
            .map(|(_, name)| name.to_owned())
            .collect(),
        age: view.reader.age(conn).max(idle),
        idle,
        egress,
        ingress,
        generation: full_generation(view.reader.generation(), state.generation),
        rule: view.rule(state.rule).map(admitting_rule),
    }
}

fn packed(own: u16, other: u16) -> u32 {
    u32::from(own) << 16 | u32::from(other)
}

/// The ICMP type and code that opened an exchange, or those of the message itself.
fn opened(icmp: TrackedIcmp, code: u8, message: u16) -> (u8, u8) {
    let [kind, own_code] = message.to_be_bytes();
    match icmp {
        TrackedIcmp::Request(kind) => (kind, code),
        TrackedIcmp::Error => (kind, own_code),
        TrackedIcmp::Other(kind, code) => (kind, code),
    }
}

fn phase(view: &LiveView, conn: &TrackedConn, now: u32) -> ConnectionPhase {
    let bits = conn.state.state;
    let timeout = timeout_of(conn.key.conn_protocol(), bits);
    if conn.outdated || idle(now, conn.state.last, view.timeouts[timeout as usize]) {
        return ConnectionPhase::Over;
    }
    match timeout {
        Timeout::TcpEstablished => ConnectionPhase::Established,
        Timeout::TcpHalfOpen => ConnectionPhase::HalfOpen,
        Timeout::TcpHalfClosed => ConnectionPhase::HalfClosed,
        Timeout::TcpClosed => ConnectionPhase::Closed,
        Timeout::UdpStream => ConnectionPhase::Stream,
        _ if bits & state::REPLIED != 0 => ConnectionPhase::Replied,
        _ => ConnectionPhase::Unreplied,
    }
}
