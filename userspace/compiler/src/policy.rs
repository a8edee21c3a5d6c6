//! One policy: the rules of an ordered list of groups, in one direction, for one family, as a block of words.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use taskgate_ebpf::abi::image::{self, AxisRef, BANK_BYTES, Class, MAX_DEPTH, MAX_RULES, PolicyHeader, RuleMatch};
use taskgate_model::{
    Direction, Eni, Family, GroupIndex, IcmpMatch, Model, Peer, Peerings, Ports, Protocol, Rule, common_groups,
};

use super::CompileError;
use super::axis::{Axis, Rows, Span};

/// The port axes, in the order of a policy's header.
const CLASSES: [Class; 4] = [Class::Tcp, Class::Udp, Class::Icmp, Class::Other];
/// The last key of a port axis: a port, or a type and code. [`Class::Other`] has no lookups above 255.
const LAST_PORT: u128 = u16::MAX as u128;

/// Inputs that all policies of a model share.
#[derive(Debug)]
pub(super) struct PolicyCompiler<'a> {
    /// The model.
    pub(super) model: &'a Model,
    /// The numbers of each group's rules, by direction: [`super::RuleIds::number`].
    pub(super) numbers: HashMap<(GroupIndex, Direction), Vec<u32>>,
    /// The group sets that contain each group.
    pub(super) sets: HashMap<GroupIndex, BTreeSet<u32>>,
    /// The ENIs behind each group set of an address in several VPCs.
    pub(super) overlaps: BTreeMap<u32, Vec<&'a Eni>>,
    /// The peered VPCs.
    pub(super) peerings: Peerings<'a>,
}

/// For one gate: by group, the sets of addresses in several VPCs that count as members.
pub(super) type SeenSets = HashMap<GroupIndex, Vec<u32>>;

/// A rule that can match something of the policy's family, and its number.
struct Numbered<'a> {
    rule: &'a Rule,
    number: u32,
}

impl PolicyCompiler<'_> {
    /// The policy of `groups`, in their order on the ENI. The block is position-independent.
    pub(super) fn policy(
        &self,
        groups: &[GroupIndex],
        direction: Direction,
        family: Family,
        overlaps: &SeenSets,
    ) -> Result<Vec<u64>, CompileError> {
        let mut rules = self.rules(groups, direction, family);
        // A stable sort: within each half, the order of groups and of the file is kept.
        rules.sort_by_key(|numbered| numbered.rule.peer.is_any());
        if rules.len() > MAX_RULES as usize {
            return Err(CompileError::TooManyRules {
                groups: self.names(groups),
                direction,
                family,
                rules: rules.len(),
            });
        }

        let mut rows = Rows::new(rules.len());
        let ports = CLASSES.map(|class| {
            let spans = spans(&rules, |rule, add| port_spans(rule.protocol, class, add));
            Axis::new(&spans, LAST_PORT, &mut rows)
        });
        let peers = spans(&rules, |rule, add| self.peer_spans(&rule.peer, family, add));
        let peers = Axis::new(&peers, last_address(family), &mut rows);
        let sets = spans(&rules, |rule, add| self.set_spans(&rule.peer, overlaps, add));
        let sets = Axis::new(&sets, u128::from(u32::MAX), &mut rows);

        let untracked = self.untracked(groups, direction, family);
        let rules: Vec<u64> = rules
            .iter()
            .map(|numbered| RuleMatch {
                rule: numbered.number,
                flags: untracked.of(numbered.rule),
            })
            .map(RuleMatch::to_word)
            .collect();
        lay_out(&rules, &ports, &peers, &sets, &rows, family).map_err(|bytes| CompileError::PolicyTooLarge {
            groups: self.names(groups),
            direction,
            family,
            bytes,
        })
    }

    /// The rules that can match something of the family, in the order of groups and file.
    fn rules(&self, groups: &[GroupIndex], direction: Direction, family: Family) -> Vec<Numbered<'_>> {
        groups
            .iter()
            .flat_map(|&group| {
                let numbers = &self.numbers[&(group, direction)];
                self.model.group(group).rules(direction).iter().zip(numbers)
            })
            .filter(|(rule, _)| self.concerns(rule, family))
            .map(|(rule, &number)| Numbered { rule, number })
            .collect()
    }

    /// Whether a rule can match anything of a family.
    fn concerns(&self, rule: &Rule, family: Family) -> bool {
        let protocol = match rule.protocol {
            Protocol::Icmp(_) => family == Family::V4,
            Protocol::Icmpv6(_) => family == Family::V6,
            _ => true,
        };
        protocol
            && match &rule.peer {
                Peer::V4(_) => family == Family::V4,
                Peer::V6(_) => family == Family::V6,
                Peer::PrefixList(list) => self.model.prefix_list(*list).entries_of(family).next().is_some(),
                Peer::Group(_) => true,
                Peer::Missing(_) => false,
            }
    }

    fn peer_spans(&self, peer: &Peer, family: Family, add: &mut dyn FnMut(u128, u128)) {
        match peer {
            Peer::V4(net) => add_net(&IpNet::V4(*net), add),
            Peer::V6(net) => add_net(&IpNet::V6(*net), add),
            Peer::PrefixList(list) => {
                for net in self.model.prefix_list(*list).entries_of(family) {
                    add_net(net, add);
                }
            }
            Peer::Group(_) | Peer::Missing(_) => {}
        }
    }

    /// For each group, the sets of addresses in several VPCs that count as its members for this gate.
    pub(super) fn overlaps_seen_from(&self, gate: &Eni) -> SeenSets {
        let mut seen = SeenSets::new();
        for (&set, enis) in &self.overlaps {
            for group in common_groups(&self.peerings.counted(gate, enis)) {
                seen.entry(group).or_default().push(set);
            }
        }
        seen
    }

    fn set_spans(&self, peer: &Peer, overlaps: &SeenSets, add: &mut dyn FnMut(u128, u128)) {
        let Peer::Group(group) = peer else { return };
        let plain = self.sets.get(group).into_iter().flatten();
        for &set in plain.chain(overlaps.get(group).into_iter().flatten()) {
            add(u128::from(set), u128::from(set));
        }
    }

    /// The protocols whose opposite direction is open to any address, and so needs no tracking.
    fn untracked(&self, groups: &[GroupIndex], direction: Direction, family: Family) -> Untracked {
        let back = direction.opposite();
        let mut untracked = Untracked::default();
        for rule in groups.iter().flat_map(|&group| self.model.group(group).rules(back)) {
            if rule.peer.is_any() && self.concerns(rule, family) {
                let (tcp, udp) = match rule.protocol {
                    Protocol::All => (true, true),
                    Protocol::Tcp(ports) => (ports == Ports::ALL, false),
                    Protocol::Udp(ports) => (false, ports == Ports::ALL),
                    Protocol::Icmp(_) | Protocol::Icmpv6(_) | Protocol::Number(_) => (false, false),
                };
                untracked.tcp |= tcp;
                untracked.udp |= udp;
            }
        }
        untracked
    }

    /// The groups' names for a message.
    fn names(&self, groups: &[GroupIndex]) -> String {
        let names: Vec<String> = groups
            .iter()
            .map(|&group| format!("`{}`", self.model.group(group).name))
            .collect();
        names.join(", ")
    }
}

/// The protocols whose opposite direction allows all return traffic: AWS's untracked flows.
#[derive(Clone, Copy, Default)]
struct Untracked {
    tcp: bool,
    udp: bool,
}

impl Untracked {
    /// The flags of a rule.
    fn of(self, rule: &Rule) -> u32 {
        let (tcp, udp) = match rule.protocol {
            _ if !rule.peer.is_any() => (false, false),
            Protocol::All => (self.tcp, self.udp),
            Protocol::Tcp(_) => (self.tcp, false),
            Protocol::Udp(_) => (false, self.udp),
            Protocol::Icmp(_) | Protocol::Icmpv6(_) | Protocol::Number(_) => (false, false),
        };
        (u32::from(tcp) * image::rule::UNTRACKED_TCP) | (u32::from(udp) * image::rule::UNTRACKED_UDP)
    }
}

/// Collects the spans that `each` adds for every rule, with the rule's bit.
fn spans(rules: &[Numbered<'_>], each: impl Fn(&Rule, &mut dyn FnMut(u128, u128))) -> Vec<Span> {
    let mut spans = Vec::with_capacity(rules.len());
    for (bit, numbered) in rules.iter().enumerate() {
        each(numbered.rule, &mut |first, last| {
            spans.push(Span {
                first,
                last,
                bit: bit as u32,
            });
        });
    }
    spans
}

/// The part of one port axis that a protocol covers. ICMP of the other family never gets here.
fn port_spans(protocol: Protocol, class: Class, add: &mut dyn FnMut(u128, u128)) {
    match (protocol, class) {
        (Protocol::All, _) => add(0, LAST_PORT),
        (Protocol::Tcp(ports), Class::Tcp) | (Protocol::Udp(ports), Class::Udp) => {
            add(ports.from.into(), ports.to.into());
        }
        (Protocol::Icmp(messages) | Protocol::Icmpv6(messages), Class::Icmp) => match messages {
            IcmpMatch::All => add(0, LAST_PORT),
            IcmpMatch::Type(kind) => {
                let first = u128::from(kind) << 8;
                add(first, first | 0xff);
            }
            IcmpMatch::TypeCode(kind, code) => {
                let key = u128::from(kind) << 8 | u128::from(code);
                add(key, key);
            }
        },
        (Protocol::Number(number), Class::Other) => add(number.into(), number.into()),
        _ => {}
    }
}

fn add_net(net: &IpNet, add: &mut dyn FnMut(u128, u128)) {
    let bounds = match net {
        IpNet::V4(net) => v4_bounds(*net),
        IpNet::V6(net) => v6_bounds(*net),
    };
    add(bounds.0, bounds.1);
}

fn v4_bounds(net: Ipv4Net) -> (u128, u128) {
    (u32::from(net.network()).into(), u32::from(net.broadcast()).into())
}

fn v6_bounds(net: Ipv6Net) -> (u128, u128) {
    (net.network().into(), net.broadcast().into())
}

fn last_address(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX.into(),
        Family::V6 => u128::MAX,
    }
}

/// Header, rules, axes and rows as one block; an error with the size in bytes if that exceeds a bank, or an axis is too
/// deep.
fn lay_out(
    rules: &[u64],
    ports: &[Axis; 4],
    peers: &Axis,
    sets: &Axis,
    rows: &Rows,
    family: Family,
) -> Result<Vec<u64>, usize> {
    let wide = family == Family::V6;
    let narrow_axes = ports.iter().chain([sets]).chain((!wide).then_some(peers));
    let axis_words: usize =
        narrow_axes.map(|axis| 1 << axis.depth()).sum::<usize>() + if wide { 3 << peers.depth() } else { 0 };
    let rows_at = PolicyHeader::BYTES as usize + 8 * (rules.len() + axis_words);
    let bytes = rows_at + 8 * rows.words().len();
    let deepest = ports.iter().chain([sets, peers]).map(Axis::depth).max();
    if bytes > BANK_BYTES as usize || deepest > Some(MAX_DEPTH) {
        return Err(bytes);
    }

    let row = |number: u32| rows_at as u32 + number * rows.row_bytes();
    let mut block = Vec::with_capacity(bytes / 8);
    block.resize(PolicyHeader::WORDS, 0);
    let offset = |block: &[u64]| block.len() as u32 * 8;
    let mut header = PolicyHeader {
        bitmap_words: rows.bitmap_words() as u32,
        rule_count: rules.len() as u32,
        rules: offset(&block),
        ..PolicyHeader::default()
    };
    block.extend_from_slice(rules);
    let mut write = |axis: &Axis, wide: bool| {
        let (offset, depth) = (offset(&block), axis.depth());
        if wide {
            axis.write_wide(&mut block, row);
        } else {
            axis.write_narrow(&mut block, row);
        }
        AxisRef { offset, depth }
    };
    header.ports = ports.each_ref().map(|axis| write(axis, false));
    header.peers = write(peers, wide);
    header.groups = write(sets, false);
    block.extend_from_slice(rows.words());
    block[..PolicyHeader::WORDS].copy_from_slice(&header.to_words());
    Ok(block)
}
