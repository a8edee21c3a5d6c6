//! The query that selects connections.

use std::net::IpAddr;

use ipnet::IpNet;
use taskgate_api::ConnectionsQuery;
use taskgate_ebpf::{
    abi::{Direction, tables::RULE_EXEMPT},
    conntrack::initiator,
    wire::{TCP, UDP},
};
use taskgate_model::protocol_number;
use taskgate_tables::TrackedConn;

use super::LiveView;

/// Why a query cannot be answered: it is invalid, or names a task or rule that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Senseless(String),
}

/// The criteria that a connection has to meet, all of them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    slots: Option<Vec<u16>>,
    peers: Option<IpNet>,
    port: Option<u16>,
    protocol: Option<u8>,
    /// The numbers of the rules, sorted.
    rules: Option<Vec<u32>>,
    direction: Option<Direction>,
}

impl Wanted {
    pub(super) fn new(view: &LiveView, query: &ConnectionsQuery) -> Result<Self, QueryError> {
        let ConnectionsQuery {
            task,
            peer,
            port,
            protocol,
            rule,
            direction,
        } = query;
        Ok(Self {
            slots: task.as_deref().map(|task| slots(view, task)).transpose()?,
            peers: peer.as_deref().map(peers).transpose()?,
            port: *port,
            protocol: protocol.as_deref().map(number).transpose()?,
            rules: rule.as_deref().map(|rule| rules(view, rule)).transpose()?,
            direction: direction.as_deref().map(way).transpose()?,
        })
    }

    /// Whether a connection meets all criteria.
    pub(super) fn covers(&self, conn: &TrackedConn) -> bool {
        let (key, state) = (&conn.key, &conn.state);
        let (own, other) = key.ports();
        let has_ports = || matches!(key.conn_protocol(), TCP | UDP);
        self.protocol.is_none_or(|protocol| key.conn_protocol() == protocol)
            && self
                .port
                .is_none_or(|port| has_ports() && (own == port || other == port))
            && self
                .direction
                .is_none_or(|direction| initiator(state.state) == direction)
            && self.slots.as_ref().is_none_or(|slots| slots.contains(&state.slot))
            && self.peers.is_none_or(|peers| peers.contains(&key.remote()))
            && self
                .rules
                .as_ref()
                .is_none_or(|rules| rules.binary_search(&state.rule).is_ok())
    }
}

/// The slots of a task, or of an ENI.
fn slots(view: &LiveView, task: &str) -> Result<Vec<u16>, QueryError> {
    let enis = view.enis();
    let is = |name: &str| name.eq_ignore_ascii_case(task);
    let named = enis
        .iter()
        .filter(|(_, eni)| is(&eni.id) || eni.task.as_deref().is_some_and(is));
    let slots: Vec<u16> = named.map(|(slot, _)| *slot).collect();
    if slots.is_empty() {
        return Err(QueryError::NotFound(format!(
            "no task and no ENI on this host is `{task}`"
        )));
    }
    Ok(slots)
}

fn peers(text: &str) -> Result<IpNet, QueryError> {
    let one = |address: IpAddr| IpNet::from(address.to_canonical());
    let parsed = text.parse().map(one).or_else(|_not_one| text.parse());
    parsed.map_err(|_no_net| {
        QueryError::Senseless(format!(
            "`{text}` is no address and no CIDR: write `10.0.0.1` or `10.0.0.0/8`"
        ))
    })
}

fn number(text: &str) -> Result<u8, QueryError> {
    let number = protocol_number(text).or_else(|| text.parse().ok());
    number.ok_or_else(|| {
        QueryError::Senseless(format!(
            "`{text}` is no protocol: write `tcp`, `icmp`, `esp`, or a number from 0 to 255"
        ))
    })
}

fn way(text: &str) -> Result<Direction, QueryError> {
    let known = Direction::BOTH.into_iter().find(|direction| direction.as_str() == text);
    known.ok_or_else(|| QueryError::Senseless(format!("`{text}` is no direction: write `ingress` or `egress`")))
}

/// The numbers of a rule, or of all rules of a group, including rules that are no longer in force.
fn rules(view: &LiveView, text: &str) -> Result<Vec<u32>, QueryError> {
    if text == "exempt" {
        return Ok(vec![RULE_EXEMPT]);
    }
    let is = |name: &String| name.eq_ignore_ascii_case(text);
    let named = (1..).zip(&view.rules);
    let named = named.filter(|(_, rule)| is(&rule.rule) || is(&rule.group) || is(&rule.group_name));
    let numbers: Vec<u32> = named.map(|(number, _)| number).collect();
    if numbers.is_empty() {
        return Err(QueryError::NotFound(format!("no rule and no group is `{text}`")));
    }
    Ok(numbers)
}
