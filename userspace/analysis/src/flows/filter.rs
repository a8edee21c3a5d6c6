//! Filters of flow records.

use std::net::IpAddr;

use ipnet::IpNet;
use taskgate_model::{RecordField, protocol_number};

use super::record::{Side, StoredRecord};

/// What a filter looks at; with a side, at that end of the flow alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names of the flags say it")]
pub enum FilterKey {
    Task(Option<Side>),
    Ip(Option<Side>),
    Port(Option<Side>),
    Group(Option<Side>),
    Service(Option<Side>),
    Verdict,
    Reason,
    Rule,
    Direction,
    Protocol,
    SameHost,
}

impl FilterKey {
    /// All of them, with their flags, the flags' values and help.
    pub const FLAGS: [(Self, &str, &str, &str); 21] = [
        (
            Self::Task(None),
            "task",
            "TASK",
            "Only flows with this task at either end, by its name or its ENI's id",
        ),
        (
            Self::Task(Some(Side::From)),
            "from-task",
            "TASK",
            "Only flows from this task",
        ),
        (Self::Task(Some(Side::To)), "to-task", "TASK", "Only flows to this task"),
        (
            Self::Ip(None),
            "ip",
            "ADDR",
            "Only flows with this address, or one of this CIDR, at either end",
        ),
        (
            Self::Ip(Some(Side::From)),
            "from-ip",
            "ADDR",
            "Only flows from this address or CIDR",
        ),
        (
            Self::Ip(Some(Side::To)),
            "to-ip",
            "ADDR",
            "Only flows to this address or CIDR",
        ),
        (
            Self::Port(None),
            "port",
            "PORT",
            "Only flows with this port, or one of FROM-TO, at either end",
        ),
        (
            Self::Port(Some(Side::From)),
            "from-port",
            "PORT",
            "Only flows from this port or range",
        ),
        (
            Self::Port(Some(Side::To)),
            "to-port",
            "PORT",
            "Only flows to this port or range",
        ),
        (
            Self::Group(None),
            "group",
            "GROUP",
            "Only flows that a rule of this group let pass, or whose peer has it, by name or id",
        ),
        (
            Self::Group(Some(Side::From)),
            "from-group",
            "GROUP",
            "Only flows from this group",
        ),
        (
            Self::Group(Some(Side::To)),
            "to-group",
            "GROUP",
            "Only flows to this group",
        ),
        (
            Self::Service(None),
            "service",
            "SERVICE",
            "Only flows of this ECS service",
        ),
        (
            Self::Service(Some(Side::From)),
            "from-service",
            "SERVICE",
            "Only flows from this ECS service",
        ),
        (
            Self::Service(Some(Side::To)),
            "to-service",
            "SERVICE",
            "Only flows to this ECS service",
        ),
        (Self::Verdict, "verdict", "VERDICT", "Only `accept` or only `reject`"),
        (
            Self::Reason,
            "reason",
            "REASON",
            "Only what was dropped for this reason, such as `no-rule`",
        ),
        (Self::Rule, "rule", "RULE", "Only what this rule let pass, by its id"),
        (
            Self::Direction,
            "direction",
            "DIRECTION",
            "Only `ingress` or only `egress`, seen from the record's ENI",
        ),
        (
            Self::Protocol,
            "protocol",
            "PROTOCOL",
            "Only this protocol: an IANA name or number",
        ),
        (
            Self::SameHost,
            "same-host",
            "BOOL",
            "Only flows between tasks of one host (`true`), or only others (`false`)",
        ),
    ];
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// A word, in lower case.
    Word(String),
    Net(IpNet),
    Ports(u16, u16),
    Number(u8),
    Is(bool),
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    key: FilterKey,
    wanted: Wanted,
    /// It excludes what it matches.
    negated: bool,
}

impl Term {
    /// Reads a flag's value.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(key: FilterKey, text: &str, negated: bool) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let one_of = |words: [&str; 2]| {
            let right = || format!("write `{}` or `{}`", words[0], words[1]);
            words.contains(&&*lower).then(|| lower.clone()).ok_or_else(right)
        };
        let wanted = match key {
            FilterKey::Ip(_) => {
                let net = text
                    .parse::<IpNet>()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                let net = net.map_err(|_error| String::from("write an address or a CIDR"))?;
                Wanted::Net(net.trunc())
            }
            FilterKey::Port(_) => {
                let (from, to) = text.split_once('-').unwrap_or((text, text));
                match (from.parse(), to.parse()) {
                    (Ok(from), Ok(to)) if from <= to => Wanted::Ports(from, to),
                    _ => return Err(String::from("write a port from 0 to 65535, or FROM-TO")),
                }
            }
            FilterKey::Verdict => Wanted::Word(one_of(["accept", "reject"])?),
            FilterKey::Direction => Wanted::Word(one_of(["ingress", "egress"])?),
            FilterKey::SameHost => Wanted::Is(one_of(["true", "false"])? == "true"),
            FilterKey::Protocol => {
                let number = protocol_number(text).or_else(|| text.parse().ok());
                let right = || String::from("write a protocol's name, such as `tcp`, or a number from 0 to 255");
                Wanted::Number(number.ok_or_else(right)?)
            }
            FilterKey::Task(_) | FilterKey::Group(_) | FilterKey::Service(_) | FilterKey::Reason | FilterKey::Rule => {
                Wanted::Word(lower)
            }
        };
        Ok(Self { key, wanted, negated })
    }

    fn matches(&self, record: &StoredRecord) -> bool {
        let either = |side: Option<Side>, has: &dyn Fn(Side) -> bool| match side {
            Some(side) => has(side),
            None => Side::BOTH.into_iter().any(has),
        };
        let is = |text: Option<&str>| text.is_some_and(|text| self.is_word(text));
        match self.key {
            FilterKey::Task(side) => {
                let own = [
                    RecordField::TaskgateTask,
                    RecordField::InterfaceId,
                    RecordField::TaskgatePeerTask,
                ];
                either(side, &|side| is(record.task(side)))
                    || side.is_none() && own.into_iter().any(|field| is(record.get(field)))
            }
            FilterKey::Ip(side) => either(side, &|side| {
                record.address(side).is_some_and(|address| match &self.wanted {
                    Wanted::Net(net) => net.contains(&address),
                    _ => false,
                })
            }),
            FilterKey::Port(side) => either(side, &|side| {
                record.port(side).is_some_and(|port| match self.wanted {
                    Wanted::Ports(from, to) => (from..=to).contains(&port),
                    _ => false,
                })
            }),
            FilterKey::Group(side) => {
                let own = [RecordField::TaskgateGroup, RecordField::TaskgateGroupId];
                either(side, &|side| {
                    record.groups(side).iter().any(|group| self.is_word(group))
                }) || side.is_none()
                    && (own.into_iter().any(|field| is(record.get(field)))
                        || record.peer_groups().iter().any(|group| self.is_word(group)))
            }
            FilterKey::Service(side) => {
                either(side, &|side| is(record.service(side)))
                    || side.is_none() && is(record.get(RecordField::EcsServiceName))
            }
            FilterKey::Verdict => is(record.get(RecordField::Action)),
            FilterKey::Reason => record.reasons().any(|reason| self.is_word(reason)),
            FilterKey::Rule => is(record.get(RecordField::TaskgateRule)),
            FilterKey::Direction => is(record.get(RecordField::FlowDirection)),
            FilterKey::Protocol => record
                .protocol()
                .is_some_and(|number| self.wanted == Wanted::Number(number)),
            FilterKey::SameHost => {
                let same = record.get(RecordField::TaskgateSameHost);
                same.is_some_and(|same| self.wanted == Wanted::Is(same == "true"))
            }
        }
    }

    fn is_word(&self, text: &str) -> bool {
        match &self.wanted {
            Wanted::Word(word) => text.to_ascii_lowercase() == *word,
            _ => false,
        }
    }
}

/// All filters of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// The flags, in any order.
    pub terms: Vec<Term>,
    /// Records that end at this time or later, in Unix seconds.
    pub since: Option<u64>,
    /// Records that begin before this time, in Unix seconds.
    pub until: Option<u64>,
}

impl FlowFilter {
    /// Whether a record is wanted: of each flag that is given some value matches, and no negated one does.
    pub fn matches(&self, record: &StoredRecord) -> bool {
        let begins = record.number(RecordField::Start);
        let ends = record.number(RecordField::End);
        if self.since.is_some_and(|since| ends.is_none_or(|end| end < since))
            || self
                .until
                .is_some_and(|until| begins.is_none_or(|start| start >= until))
        {
            return false;
        }
        let (excluding, wanted): (Vec<_>, Vec<_>) = self.terms.iter().partition(|term| term.negated);
        let has = |key| wanted.iter().any(|term| term.key == key && term.matches(record));
        wanted.iter().all(|term| has(term.key)) && !excluding.iter().any(|term| term.matches(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::RecordReader;

    const HEADER: &str = "srcaddr dstaddr srcport dstport protocol start end action flow-direction taskgate-task taskgate-group \
                          taskgate-rule taskgate-reason taskgate-same-host taskgate-peer-task taskgate-peer-groups \
                          ecs-service-name interface-id log-status";
    const ALLOWED: &str = "10.0.1.15 10.0.1.20 49152 5432 6 100 160 ACCEPT ingress db-1 db db/ingress/1 - true web-1 web,ops \
                           store eni-db OK";
    const DENIED: &str =
        "10.0.9.9 10.0.1.20 50000 22 6 160 220 REJECT ingress db-1 - - no-rule false - - store eni-db OK";
    const DNS: &str = "10.0.1.15 10.0.0.2 40000 53 17 100 160 ACCEPT egress web-1 - - exempt false - - - eni-web OK";
    const SKIPPED: &str = "- - - - - 160 220 - - web-1 - - - - - - - eni-web SKIPDATA";

    fn records() -> Vec<StoredRecord> {
        let mut reader = RecordReader::default();
        assert_eq!(reader.read(HEADER), Ok(None));
        [ALLOWED, DENIED, DNS, SKIPPED]
            .map(|line| reader.read(line).expect("a record").expect("no header"))
            .to_vec()
    }

    /// Which of the records are left by flags, `!` before a negated one.
    fn left(flags: &str) -> String {
        let term = |flag: &str| {
            let (negated, flag) = flag.strip_prefix('!').map_or((false, flag), |flag| (true, flag));
            let (name, value) = flag.split_once('=').expect("a value");
            let (key, ..) = *FilterKey::FLAGS
                .iter()
                .find(|(_, known, ..)| *known == name)
                .expect("a flag");
            Term::parse(key, value, negated).expect("a value that fits")
        };
        let filter = FlowFilter {
            terms: flags.split_whitespace().map(term).collect(),
            ..FlowFilter::default()
        };
        let kept = records().into_iter().zip("wxyz".chars());
        kept.filter(|(record, _)| filter.matches(record))
            .map(|(_, letter)| letter)
            .collect()
    }

    #[test]
    fn each_flag_keeps_what_it_names() {
        for (flags, expected) in [
            ("", "wxyz"),
            ("task=web-1", "wyz"),
            ("task=WEB-1", "wyz"),
            ("task=eni-db", "wx"),
            ("from-task=web-1", "wy"),
            ("to-task=web-1", ""),
            ("to-task=db-1", "wx"),
            ("ip=10.0.1.15", "wy"),
            ("from-ip=10.0.1.0/24", "wy"),
            ("to-ip=10.0.1.0/24", "wx"),
            ("ip=10.0.1.7/8", "wxy"),
            ("port=5432", "w"),
            ("port=22-53", "xy"),
            ("from-port=22-53", ""),
            ("group=db", "w"),
            ("group=ops", "w"),
            ("from-group=web", "w"),
            ("from-group=db", ""),
            ("to-group=db", "w"),
            ("service=store", "wx"),
            ("from-service=store", ""),
            ("to-service=store", "wx"),
            ("verdict=REJECT", "x"),
            ("verdict=accept", "wy"),
            ("reason=no-rule", "x"),
            ("reason=exempt", "y"),
            ("rule=db/ingress/1", "w"),
            ("direction=egress", "y"),
            ("protocol=udp", "y"),
            ("protocol=6", "wx"),
            ("same-host=true", "w"),
            ("same-host=false", "xy"),
        ] {
            assert_eq!(left(flags), expected, "{flags}");
        }
    }

    #[test]
    fn one_flag_twice_is_either_and_different_flags_are_both() {
        for (flags, expected) in [
            ("port=22 port=53", "xy"),
            ("port=22 protocol=udp", ""),
            ("port=22 port=53 protocol=udp", "y"),
            ("!port=22", "wyz"),
            ("!port=22 !port=53", "wz"),
            ("task=db-1 !verdict=reject", "w"),
            ("verdict=accept !same-host=true", "y"),
            ("from-ip=10.0.1.15 to-ip=10.0.1.20", "w"),
        ] {
            assert_eq!(left(flags), expected, "{flags}");
        }
    }

    #[test]
    fn records_are_kept_by_their_time() {
        let left = |since, until| {
            let filter = FlowFilter {
                terms: Vec::new(),
                since,
                until,
            };
            records().iter().filter(|record| filter.matches(record)).count()
        };
        assert_eq!(left(None, None), 4);
        assert_eq!(left(Some(161), None), 2);
        assert_eq!(left(Some(160), None), 4);
        assert_eq!(left(None, Some(160)), 2);
        assert_eq!(left(Some(221), None), 0);
        assert_eq!(left(Some(161), Some(160)), 0);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (name, value) in [
            ("ip", "10.0.0.300"),
            ("port", "http"),
            ("port", "5-4"),
            ("port", "65536"),
            ("verdict", "drop"),
            ("direction", "in"),
            ("protocol", "tpc"),
            ("same-host", "yes"),
        ] {
            let (key, ..) = *FilterKey::FLAGS
                .iter()
                .find(|(_, known, ..)| *known == name)
                .expect("a flag");
            let refused = Term::parse(key, value, false).expect_err(value);
            assert!(refused.starts_with("write "), "{refused}");
        }
    }
}
