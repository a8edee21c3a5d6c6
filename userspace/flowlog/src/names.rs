//! The rules, the generation and the ENIs that records name.

use std::{net::IpAddr, sync::Arc};

use taskgate_ebpf::abi::tables::RULE_EXEMPT;
use taskgate_model::{Eni, Model};
use taskgate_tables::full_generation;

use super::{
    attribution::{RecordedPeer, RecordedRule},
    label::Label,
};

/// A rule as a configuration names it.
#[derive(Clone, Copy, Debug)]
pub struct RuleText<'a> {
    /// The id of its group.
    pub group: &'a str,
    /// The name of its group.
    pub group_name: &'a str,
    /// The id of the rule.
    pub rule: &'a str,
}

/// The names for records: rules by their numbers, the generation, and the ENIs of far sides' addresses.
#[derive(Debug, Default)]
pub struct RecordNames {
    rules: RecordedRules,
    generation: u64,
    peers: Option<Peers>,
}

/// The rules in the order of their numbers, from 1.
#[derive(Clone, Debug)]
pub(super) struct RecordedRules {
    numbered: Vec<Arc<RecordedRule>>,
    exempt: Arc<RecordedRule>,
}

impl Default for RecordedRules {
    fn default() -> Self {
        Self {
            numbered: Vec::new(),
            exempt: Arc::new(RecordedRule::exempt()),
        }
    }
}

impl RecordedRules {
    /// The rule of a number.
    pub(super) fn get(&self, number: u32) -> Option<Arc<RecordedRule>> {
        if number == RULE_EXEMPT {
            return Some(Arc::clone(&self.exempt));
        }
        self.numbered.get((number as usize).checked_sub(1)?).cloned()
    }
}

impl RecordNames {
    /// Takes over all numbered rules, in the order of their numbers from 1, and the generation in force. To be called
    /// before entries of that generation are read.
    pub fn set_rules<'a>(&mut self, rules: impl Iterator<Item = RuleText<'a>>, generation: u64) {
        self.generation = generation;
        let known = &mut self.rules.numbered;
        for (at, text) in rules.enumerate() {
            let same = known.get(at).is_some_and(|rule| {
                let RuleText {
                    group,
                    group_name,
                    rule: id,
                } = text;
                (rule.group.raw(), rule.group_name.raw(), rule.rule.raw()) == (group, group_name, id)
            });
            if same {
                continue;
            }
            let rule = Arc::new(RecordedRule {
                number: at as u32 + 1,
                group: Label::new(text.group),
                group_name: Label::new(text.group_name),
                rule: Label::new(text.rule),
            });
            if let Some(renamed) = known.get_mut(at) {
                *renamed = rule;
            } else {
                known.push(rule);
            }
        }
    }

    /// Takes over the ENIs' addresses, if a flow log has a field for the peer.
    pub fn set_peers(&mut self, model: &Arc<Model>) {
        let wanted = model.flow_logs.iter().any(|log| log.format.has_peer());
        self.peers = wanted.then(|| Peers::new(Arc::clone(model)));
    }

    /// The rules.
    pub(super) const fn rules(&self) -> &RecordedRules {
        &self.rules
    }

    /// The number of a generation, from its lower half in an entry: the latest generation with that lower half.
    pub(super) fn generation(&self, low: u16) -> u64 {
        full_generation(self.generation, low)
    }

    /// The ENI with an address, as seen from a VPC.
    pub(super) fn peer(&mut self, address: IpAddr, vpc: Option<&str>) -> Option<Arc<RecordedPeer>> {
        self.peers.as_mut()?.find(address, vpc)
    }
}

/// The ENIs of a configuration by address. The index is built at the first lookup.
#[derive(Debug)]
struct Peers {
    model: Arc<Model>,
    /// Addresses in order, with their ENIs' places in the model.
    index: Vec<(IpAddr, u32)>,
    /// The peers made so far, by the ENIs' places in the model.
    made: Vec<Option<Arc<RecordedPeer>>>,
}

impl Peers {
    const fn new(model: Arc<Model>) -> Self {
        Self {
            model,
            index: Vec::new(),
            made: Vec::new(),
        }
    }

    /// Addresses of VPCs may overlap. Of several ENIs the one gated on this host is chosen, else the one in the same VPC; else none.
    fn find(&mut self, address: IpAddr, vpc: Option<&str>) -> Option<Arc<RecordedPeer>> {
        if self.made.is_empty() {
            self.prepare();
        }
        let from = self.index.partition_point(|(other, _)| *other < address);
        let found = self.index[from..].iter().take_while(|(other, _)| *other == address);
        let places: Vec<u32> = match self.index.get(from + 1) {
            Some((next, _)) if *next == address => found.map(|(_, place)| *place).collect(),
            // Nearly always there is a single ENI: no list is allocated.
            _ => return found.map(|(_, place)| *place).next().map(|place| self.peer(place)),
        };
        let eni = |place: &&u32| &self.model.enis[**place as usize];
        let here = places.iter().find(|place| eni(place).binding.is_some());
        let same = |place: &&u32| vpc.is_some() && eni(place).vpc.as_deref() == vpc;
        let place = *here.or_else(|| places.iter().find(same))?;
        Some(self.peer(place))
    }

    fn prepare(&mut self) {
        let enis = &self.model.enis;
        self.index = (0..)
            .zip(enis)
            .flat_map(|(place, eni)| eni.addresses.iter().map(move |address| (*address, place)))
            .collect();
        self.index.sort_unstable();
        self.made.resize(enis.len().max(1), None);
    }

    fn peer(&mut self, place: u32) -> Arc<RecordedPeer> {
        let Self { model, made, .. } = self;
        let peer = made[place as usize].get_or_insert_with(|| Arc::new(peer_of(model, &model.enis[place as usize])));
        Arc::clone(peer)
    }
}

fn peer_of(model: &Model, eni: &Eni) -> RecordedPeer {
    let groups = eni.groups.iter().map(|group| {
        let group = model.group(*group);
        let name = if group.name.is_empty() { &group.id } else { &group.name };
        Label::new(name)
    });
    RecordedPeer {
        task: eni.task.as_deref().map(Label::new),
        groups: eni.groups_known.then(|| groups.collect()),
        here: eni.binding.is_some(),
        vpc: eni.vpc.as_deref().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_the_last_one_with_its_lower_half() {
        for (now, low, expected) in [
            (1, 1, 1),
            (7, 3, 3),
            (65_536, 0, 65_536),
            (65_536, 65_535, 65_535),
            (65_540, 10, 10),
            (3, 9, 0),
        ] {
            let mut names = RecordNames::default();
            names.set_rules(std::iter::empty(), now);
            assert_eq!(names.generation(low), expected, "{now} {low}");
        }
    }

    #[test]
    fn a_rule_keeps_its_number_and_a_group_may_change_its_name() {
        let text = |group_name| RuleText {
            group: "sg-1",
            group_name,
            rule: "sgr-1",
        };
        let mut names = RecordNames::default();
        names.set_rules([text("web")].into_iter(), 1);
        let first = names.rules().get(1);
        names.set_rules([text("web"), text("web")].into_iter(), 2);
        assert_eq!(
            first.as_ref().map(Arc::as_ptr),
            names.rules().get(1).as_ref().map(Arc::as_ptr)
        );
        names.set_rules([text("shop"), text("web")].into_iter(), 3);
        let name = |number| names.rules().get(number).map(|rule| rule.group_name.raw().to_owned());
        assert_eq!(
            [0, 1, 2, 3].map(name),
            [None, Some("shop".to_owned()), Some("web".to_owned()), None]
        );
        assert_eq!(
            names.rules().get(RULE_EXEMPT).map(|rule| rule.number),
            Some(RULE_EXEMPT)
        );
    }
}
