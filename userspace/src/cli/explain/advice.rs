//! The rule that would allow a packet that no rule allows: no wider than the packet asks for.

use std::net::IpAddr;

use super::{
    frame::Message,
    question::{End, Question},
};
use crate::{
    cli::words,
    model::{Direction, Eni, GroupIndex, Model, protocol_name},
};

/// A rule to add.
pub(super) struct Advice {
    /// The group to add it to, as users name it.
    pub(super) group: String,
    /// What it allows, in words.
    pub(super) says: String,
    /// The entry of a native group.
    pub(super) native: String,
}

/// What to add at an ENI's gate. `nearest`: the group that came nearest, if any did. `None` for an ENI without groups.
pub(super) fn advice(
    model: &Model,
    question: &Question<'_>,
    direction: Direction,
    eni: &Eni,
    nearest: Option<GroupIndex>,
) -> Option<Advice> {
    let (far, word) = match direction {
        Direction::Ingress => (question.from, "from"),
        Direction::Egress => (question.to, "to"),
    };
    let group = nearest.or_else(|| eni.groups.first().copied())?;
    let (peer, native_peer) = peer(model, far);
    Some(Advice {
        group: format!("`{}`", words::group_name(model, group)),
        says: format!("{} {word} {peer}", question.message),
        native: format!("{{ {}, {word}: [{native_peer}] }}", protocol(question.message)),
    })
}

/// The far side: by its group, which outlives its address, or by the address. In words, and in the native form.
fn peer(model: &Model, far: End<'_>) -> (String, String) {
    let group = far.eni.and_then(|eni| eni.groups.first());
    if let Some(&group) = group {
        let name = words::group_name(model, group);
        return (format!("group `{name}`"), format!("group:{name}"));
    }
    match far.address {
        IpAddr::V4(address) => (format!("{address}/32"), address.to_string()),
        // A colon needs quotes in a YAML list.
        IpAddr::V6(address) => (format!("{address}/128"), format!("\"{address}\"")),
    }
}

fn protocol(message: Message) -> String {
    match message {
        Message::Tcp { port, .. } => format!("protocol: tcp, ports: {port}"),
        Message::Udp { port, .. } => format!("protocol: udp, ports: {port}"),
        Message::Icmp { kind, code } => format!("protocol: icmp, type: {kind}, code: {code}"),
        Message::Icmpv6 { kind, code } => format!("protocol: icmpv6, type: {kind}, code: {code}"),
        Message::Other(number) => match protocol_name(number) {
            Some(name) => format!("protocol: {name}"),
            None => format!("protocol: {number}"),
        },
    }
}
