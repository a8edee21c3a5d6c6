//! The question: a packet, its source and its destination.

use std::net::IpAddr;

use taskgate_ebpf::wire::{ICMP, ICMPV6, TCP, UDP, icmp, icmpv6};
use taskgate_model::{Eni, Family, Model, misleading_protocol, protocol_name, protocol_text};

use super::{
    error::QuestionError,
    names::{Who, find, settle},
};
use crate::display;
use crate::frame::Message;

/// A question as asked: by names, and only with the relevant fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The sender: a task's name, an ENI's id, or an address.
    pub from: String,
    /// The receiver, in the same form.
    pub to: String,
    /// The IP protocol's number.
    pub protocol: u8,
    /// TCP, UDP: the destination port.
    pub port: Option<u16>,
    /// TCP, UDP: the source port; 49152 by default.
    pub source_port: Option<u16>,
    /// ICMP: the message's type; echo request by default.
    pub kind: Option<u8>,
    /// ICMP: the message's code; 0 by default.
    pub code: Option<u8>,
    /// The address family; by default IPv4 if both ends have it.
    pub family: Option<Family>,
}

/// One end of a packet's path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End<'a> {
    /// The packet's address at this end.
    pub address: IpAddr,
    /// The known ENI that has the address; `None` for a peer outside.
    pub eni: Option<&'a Eni>,
}

impl End<'_> {
    /// The name in messages.
    pub fn name(&self) -> String {
        self.eni
            .map_or_else(|| self.address.to_string(), |eni| eni.display_name().to_owned())
    }
}

/// A resolved question. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question<'a> {
    /// The sender.
    pub from: End<'a>,
    /// The receiver.
    pub to: End<'a>,
    /// Protocol, ports or ICMP type.
    pub message: Message,
}

/// The source port of a client: the first one of the dynamic range (RFC 6335).
const SOURCE_PORT: u16 = 49152;

impl<'a> Question<'a> {
    /// Resolves the names and builds the packet.
    ///
    /// # Errors [`QuestionError::NotFound`] if a name is unknown, [`QuestionError::Senseless`] if no such packet can
    /// exist.
    pub fn new(model: &'a Model, asked: &Asked) -> Result<Self, QuestionError> {
        let [from, to] = [find(model, &asked.from), find(model, &asked.to)];
        let (from, to) = (from?, to?);
        let (from, to) = (settle(model, from, to)?, settle(model, to, from)?);
        let family = family(asked, from, to)?;
        let message = message(asked, family)?;
        let end = |who: Who<'a>| match who {
            Who::Address(address, eni) => Some(End { address, eni }),
            Who::Eni(eni) => first_of(eni, family).map(|address| End {
                address,
                eni: Some(eni),
            }),
        };
        let (Some(from), Some(to)) = (end(from), end(to)) else {
            return Err(QuestionError::Senseless(format!("there are no two {family} addresses")));
        };
        if from.eni.is_none() && to.eni.is_none() && is_group(to.address) {
            return Err(QuestionError::NotFound(format!(
                "{} means several hosts: a task hears it where its rules admit the packet from {}; ask with `--to` and \
                 the task's name",
                to.address, from.address
            )));
        }
        if from.eni.is_none() && to.eni.is_none() {
            return Err(QuestionError::NotFound(format!(
                "neither {} nor {} is an address of a known ENI: the files show no gate on the way",
                from.address, to.address
            )));
        }
        Ok(Self { from, to, message })
    }

    /// The family of both addresses.
    pub fn family(&self) -> Family {
        display::family_of(self.from.address)
    }

    /// Remarks in addition to the verdict.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Message::Other(number) = self.message
            && let Some(name) = protocol_name(number)
            && let Some(meant) = misleading_protocol(name)
        {
            notes.push(format!("`{name}` is protocol {number}; {meant}"));
        }
        if let (Some(from), Some(to)) = (self.from.eni, self.to.eni)
            && from.id == to.id
        {
            notes.push(format!(
                "what `{}` sends to itself stays inside the task and meets no gate; this is about a packet that comes \
                 back from outside",
                self.from.name()
            ));
        }
        if let (Some(from), Some(to)) = (self.from.eni, self.to.eni)
            && from.id != to.id
            && self.from.address == self.to.address
        {
            notes.push(format!(
                "both ends have the address {}: no router leads a packet from the one to the other",
                self.from.address
            ));
        }
        if is_group(self.to.address) {
            notes.push(format!(
                "{} means several hosts: each task hears it where its rules admit the packet from `{}` (ask with `--to` \
                 and the task's name), and answers need rules of their own",
                self.to.address,
                self.from.name()
            ));
        }
        for end in [&self.from, &self.to] {
            if end.eni.is_some_and(|eni| eni.groups.is_empty() && eni.groups_known) {
                notes.push(format!("`{}` has no security group, so no gate is there", end.name()));
            }
        }
        if let [Some(from), Some(to)] = [self.from, self.to].map(|end| end.eni?.vpc.as_deref())
            && from != to
        {
            notes.push(format!(
                "`{}` is in {from} and `{}` in {to}: whether a peering or another route joins them is in no file",
                self.from.name(),
                self.to.name()
            ));
        }
        notes
    }
}

/// Whether an address is multicast or limited broadcast.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

fn first_of(eni: &Eni, family: Family) -> Option<IpAddr> {
    eni.addresses
        .iter()
        .copied()
        .find(|address| display::family_of(*address) == family)
}

/// The family that both ends have, that the protocol supports and that was asked for; IPv4 if both would do.
fn family(asked: &Asked, from: Who<'_>, to: Who<'_>) -> Result<Family, QuestionError> {
    let has = |who: Who<'_>, family: Family| match who {
        Who::Address(address, _) => display::family_of(address) == family,
        Who::Eni(eni) => first_of(eni, family).is_some(),
    };
    let common = |family: Family| has(from, family) && has(to, family);
    if !common(Family::V4) && !common(Family::V6) {
        let families = |who| match [Family::V4, Family::V6].map(|family| has(who, family)) {
            [true, true] => "both",
            [true, false] => "IPv4",
            [false, true] => "IPv6",
            [false, false] => "no address",
        };
        return Err(QuestionError::Senseless(format!(
            "no packet goes from `{}` ({}) to `{}` ({}): they share no family of addresses; name ends that do",
            asked.from,
            families(from),
            asked.to,
            families(to),
        )));
    }
    let chosen = asked.family.map(|family| match family {
        Family::V4 => (family, "-4"),
        Family::V6 => (family, "-6"),
    });
    let bound = match asked.protocol {
        ICMP => Some((Family::V4, "icmp")),
        ICMPV6 => Some((Family::V6, "icmpv6")),
        _ => None,
    };
    if let (Some((chosen, flag)), Some((bound, protocol))) = (chosen, bound)
        && chosen != bound
    {
        return Err(QuestionError::Senseless(format!(
            "`{flag}` does not go with `--protocol {protocol}`, which is {}'s; {}",
            bound,
            other_icmp(protocol),
        )));
    }
    let Some((family, because)) = chosen.or(bound) else {
        return Ok(if common(Family::V4) { Family::V4 } else { Family::V6 });
    };
    for (who, name) in [(from, &asked.from), (to, &asked.to)] {
        if !has(who, family) {
            let hint = match bound {
                Some((_, protocol)) => other_icmp(protocol),
                None => "leave it out",
            };
            return Err(QuestionError::Senseless(format!(
                "`{name}` has no {family} address, which `{because}` needs; {hint}"
            )));
        }
    }
    Ok(family)
}

fn other_icmp(protocol: &str) -> &'static str {
    match protocol {
        "icmp" => "write `--protocol icmpv6`",
        _ => "write `--protocol icmp`",
    }
}

/// The packet's payload.
fn message(asked: &Asked, family: Family) -> Result<Message, QuestionError> {
    let usage = |text: String| Err(QuestionError::Senseless(text));
    let protocol = asked.protocol;
    let (ports, icmp) = (matches!(protocol, TCP | UDP), matches!(protocol, ICMP | ICMPV6));
    let given = [
        ("--port", asked.port.is_some(), ports),
        ("--source-port", asked.source_port.is_some(), ports),
        ("--type", asked.kind.is_some(), icmp),
        ("--code", asked.code.is_some(), icmp),
    ];
    for (flag, given, fits) in given {
        if given && !fits {
            let hint = if icmp {
                "write `--type` and `--code`"
            } else {
                "leave it out"
            };
            return usage(format!("`{flag}` does not go with this protocol; {hint}"));
        }
    }
    let source = asked.source_port.unwrap_or(SOURCE_PORT);
    let code = asked.code.unwrap_or(0);
    Ok(match (protocol, asked.port) {
        (TCP, Some(port)) => Message::Tcp { source, port },
        (UDP, Some(port)) => Message::Udp { source, port },
        (TCP | UDP, None) => return usage(String::from("the destination port is missing; write `--port`")),
        (ICMP, _) => Message::Icmp {
            kind: asked.kind.unwrap_or(icmp::ECHO),
            code,
        },
        (ICMPV6, _) => {
            let kind = asked.kind.unwrap_or(icmpv6::ECHO_REQUEST);
            if matches!(
                kind,
                icmpv6::LISTENER_QUERY..=icmpv6::REDIRECT | icmpv6::LISTENER_REPORT_V2
            ) {
                return usage(format!(
                    "ICMPv6 type {kind} is neighbour or listener discovery, of which no rule speaks: a task takes part \
                     in it with its own addresses"
                ));
            }
            Message::Icmpv6 { kind, code }
        }
        (0 | 43 | 44 | 60, _) if family == Family::V6 => {
            return usage(format!(
                "{} is a header that a packet of any protocol can have, and rules see the protocol behind it; name that",
                protocol_text(protocol)
            ));
        }
        (number, _) => Message::Other(number),
    })
}
