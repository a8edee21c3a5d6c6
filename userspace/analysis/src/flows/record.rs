//! One stored record, and what it says of both ends of its flow.

use std::{borrow::Cow, net::IpAddr};

use taskgate_model::RecordField;

/// An end of a flow, in the direction of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where the packets come from.
    From,
    /// Where they go.
    To,
}

impl Side {
    /// Both, the sender first.
    pub const BOTH: [Self; 2] = [Self::From, Self::To];
}

/// A flow record as it was stored. A field that the record lacks and one that holds `-` are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRecord {
    values: Vec<(RecordField, String)>,
}

impl StoredRecord {
    /// Adds a field's value, unless it is empty or `-`.
    pub(super) fn set(&mut self, field: RecordField, value: &str) {
        if !matches!(value, "" | "-") {
            self.values.push((field, value.to_owned()));
        }
    }

    /// The values, in the order in which they were stored.
    pub fn values(&self) -> impl Iterator<Item = (RecordField, &str)> {
        self.values.iter().map(|(field, value)| (*field, &**value))
    }

    /// A field's value.
    pub fn get(&self, field: RecordField) -> Option<&str> {
        let found = self.values.iter().find(|(of, _)| *of == field);
        found.map(|(_, value)| &**value)
    }

    /// A field's value as a number.
    pub fn number(&self, field: RecordField) -> Option<u64> {
        self.get(field)?.parse().ok()
    }

    /// Whether it is about a flow, and neither NODATA nor SKIPDATA.
    pub fn is_flow(&self) -> bool {
        !matches!(self.get(RecordField::LogStatus), Some("NODATA" | "SKIPDATA"))
    }

    /// The IANA number of the flow's protocol.
    pub fn protocol(&self) -> Option<u8> {
        self.get(RecordField::Protocol)?.parse().ok()
    }

    /// An end's address.
    pub fn address(&self, side: Side) -> Option<IpAddr> {
        let field = match side {
            Side::From => RecordField::SrcAddr,
            Side::To => RecordField::DstAddr,
        };
        self.get(field)?.parse().ok()
    }

    /// An end's port.
    pub fn port(&self, side: Side) -> Option<u16> {
        let field = match side {
            Side::From => RecordField::SrcPort,
            Side::To => RecordField::DstPort,
        };
        self.get(field)?.parse().ok()
    }

    /// Whether an end is the network interface at which the record was made; `None` if the record has no `flow-direction`.
    fn is_own(&self, side: Side) -> Option<bool> {
        match self.get(RecordField::FlowDirection)? {
            "egress" => Some(side == Side::From),
            "ingress" => Some(side == Side::To),
            _ => None,
        }
    }

    /// An end's task.
    pub fn task(&self, side: Side) -> Option<&str> {
        if self.is_own(side)? {
            self.get(RecordField::TaskgateTask)
        } else {
            self.get(RecordField::TaskgatePeerTask)
        }
    }

    /// An end's groups, by name or id: of the peer all of them, of the own end the one whose rule let the packets pass.
    pub fn groups(&self, side: Side) -> Vec<Cow<'_, str>> {
        match self.is_own(side) {
            Some(true) => {
                let fields = [RecordField::TaskgateGroup, RecordField::TaskgateGroupId];
                fields
                    .into_iter()
                    .filter_map(|field| self.get(field))
                    .map(Cow::Borrowed)
                    .collect()
            }
            Some(false) => self.peer_groups(),
            None => Vec::new(),
        }
    }

    /// The peer's groups.
    pub fn peer_groups(&self) -> Vec<Cow<'_, str>> {
        let list = self.get(RecordField::TaskgatePeerGroups).unwrap_or_default();
        list.split(',')
            .filter(|group| !group.is_empty())
            .map(percent_decoded)
            .collect()
    }

    /// An end's ECS service: known of the own end alone.
    pub fn service(&self, side: Side) -> Option<&str> {
        let own = self.is_own(side)?;
        self.get(RecordField::EcsServiceName).filter(|_| own)
    }

    /// The reasons for which packets were dropped, or that they needed no rule.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        let reasons = self.get(RecordField::TaskgateReason).unwrap_or_default();
        reasons.split(',').filter(|reason| !reason.is_empty())
    }
}

/// A name without its percent-encoding. What is not encoded UTF-8 stays as it is.
pub(super) fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_names_are_decoded_and_others_stay() {
        for (text, decoded) in [
            ("web", "web"),
            ("my%20web", "my web"),
            ("a%2Cb%25", "a,b%"),
            ("%C3%A4", "ä"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%FF", "%FF"),
        ] {
            assert_eq!(percent_decoded(text), decoded);
        }
    }
}
