//! Rule numbers, by which tracked connections and policies name a rule.

use std::collections::HashMap;

use ipnet::IpNet;
use taskgate_ebpf::abi::tables::RULE_EXEMPT;
use taskgate_model::{Direction, GroupId, GroupIndex, Model, Peer, Protocol, Rule};

use super::CompileError;

/// The rule behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The group's id.
    pub group: GroupId,
    /// The group's name, as the last configuration with the rule had it.
    pub group_name: String,
    /// The rule's direction.
    pub direction: Direction,
    /// The rule's id.
    pub rule: String,
}

/// The register of rule numbers. A rule is its group, its direction, its id and what it says; what changes any of them
/// is another rule with another number, and no number is ever given to a second rule. Numbers run from 1 and never reach
/// [`RULE_EXEMPT`], which is the highest that entries have room for.
#[derive(Debug, Default)]
pub struct RuleIds {
    names: Vec<RuleName>,
    numbers: HashMap<Key, u32>,
}

/// A rule as configurations may repeat it: by ids, never by positions in a model.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    group: GroupId,
    direction: Direction,
    rule: String,
    content: Vec<(Protocol, PeerKey)>,
}

/// A peer by what it is called.
#[derive(Debug, PartialEq, Eq, Hash)]
enum PeerKey {
    Net(IpNet),
    Id(String),
}

impl PeerKey {
    fn new(model: &Model, peer: &Peer) -> Self {
        match peer {
            Peer::V4(net) => Self::Net(IpNet::V4(*net)),
            Peer::V6(net) => Self::Net(IpNet::V6(*net)),
            Peer::PrefixList(list) => Self::Id(model.prefix_list(*list).id.clone()),
            Peer::Group(group) => Self::Id(model.group(*group).id.clone()),
            Peer::Missing(id) => Self::Id(id.clone()),
        }
    }
}

impl RuleIds {
    /// The rule behind `number`, also when no configuration has it any more.
    pub fn name(&self, number: u32) -> Option<&RuleName> {
        self.names.get((number as usize).checked_sub(1)?)
    }

    /// The numbers of a group's rules in one direction, in the order of the file. Rules with the same id share one.
    ///
    /// # Errors
    /// [`CompileError::RuleNumbersExhausted`].
    pub fn number(&mut self, model: &Model, group: GroupIndex, direction: Direction) -> Result<Vec<u32>, CompileError> {
        let rules = model.group(group).rules(direction);
        let mut parts: HashMap<&str, Vec<&Rule>> = HashMap::new();
        for rule in rules {
            parts.entry(&rule.id).or_default().push(rule);
        }
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for rule in rules {
            if !numbers.contains_key(rule.id.as_str()) {
                let number = self.number_one(model, group, direction, &parts[rule.id.as_str()])?;
                numbers.insert(&rule.id, number);
            }
        }
        Ok(rules.iter().map(|rule| numbers[rule.id.as_str()]).collect())
    }

    /// The number of the rule whose parts in the model are `parts`: at least one, all with the same id.
    fn number_one(
        &mut self,
        model: &Model,
        group: GroupIndex,
        direction: Direction,
        parts: &[&Rule],
    ) -> Result<u32, CompileError> {
        let group = model.group(group);
        let key = Key {
            group: group.id.clone(),
            direction,
            rule: parts[0].id.clone(),
            content: parts
                .iter()
                .map(|part| (part.protocol, PeerKey::new(model, &part.peer)))
                .collect(),
        };
        if let Some(&number) = self.numbers.get(&key) {
            self.names[number as usize - 1].group_name.clone_from(&group.name);
            return Ok(number);
        }
        let number = u32::try_from(self.names.len() + 1)
            .ok()
            .filter(|number| *number < RULE_EXEMPT)
            .ok_or_else(|| CompileError::RuleNumbersExhausted {
                group: group.id.clone(),
                direction,
            })?;
        self.names.push(RuleName {
            group: group.id.clone(),
            group_name: group.name.clone(),
            direction,
            rule: key.rule.clone(),
        });
        self.numbers.insert(key, number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskgate_model::{Dialect, Location, Ports, SecurityGroup};

    fn rule(id: &str, from: u16, peer: Peer) -> Rule {
        Rule {
            id: id.into(),
            protocol: Protocol::Tcp(Ports { from, to: from }),
            peer,
            description: String::new(),
            location: Location::default(),
        }
    }

    fn model(names: &[&str], rules: &[Rule]) -> Model {
        Model {
            groups: names
                .iter()
                .map(|name| SecurityGroup {
                    id: format!("sg-{name}"),
                    name: (*name).into(),
                    vpc: None,
                    rules_known: true,
                    dialect: Dialect::Native,
                    location: Location::default(),
                    ingress: rules.to_vec(),
                    egress: vec![],
                })
                .collect(),
            ..Model::default()
        }
    }

    fn any() -> Peer {
        Peer::V4("0.0.0.0/0".parse().unwrap())
    }

    #[test]
    fn a_rule_keeps_its_number_and_another_never_gets_it() {
        let mut rule_ids = RuleIds::default();
        let mut numbers = |names: &[&str], group, rules: &[Rule]| {
            rule_ids
                .number(&model(names, rules), GroupIndex(group), Direction::Ingress)
                .unwrap()
        };
        // Parts of one rule share the number.
        let first = vec![rule("r/1", 80, any()), rule("r/1", 81, any()), rule("r/2", 22, any())];
        assert_eq!(numbers(&["a"], 0, &first), [1, 1, 2]);
        assert_eq!(numbers(&["a"], 0, &first), [1, 1, 2]);
        // The same ids in another group.
        assert_eq!(numbers(&["a", "b"], 1, &first), [3, 3, 4]);
        // A part less is another rule; and the first one comes back under its number.
        assert_eq!(numbers(&["a"], 0, &first[1..]), [5, 2]);
        assert_eq!(numbers(&["a"], 0, &first), [1, 1, 2]);
        // A reference is the group that it names, wherever that is in the model, and whether it is known or not.
        let to = |peer| vec![rule("r/3", 1, peer)];
        assert_eq!(numbers(&["a", "b"], 0, &to(Peer::Group(GroupIndex(1)))), [6]);
        assert_eq!(numbers(&["a", "c", "b"], 0, &to(Peer::Group(GroupIndex(2)))), [6]);
        assert_eq!(numbers(&["a", "c", "b"], 0, &to(Peer::Group(GroupIndex(1)))), [7]);
        assert_eq!(numbers(&["a"], 0, &to(Peer::Missing("sg-b".into()))), [6]);
    }

    #[test]
    fn a_number_answers_with_the_names() {
        let mut rule_ids = RuleIds::default();
        let mut model = model(&["a"], &[rule("r/1", 80, any())]);
        rule_ids.number(&model, GroupIndex(0), Direction::Ingress).unwrap();
        let expected = RuleName {
            group: "sg-a".into(),
            group_name: "a".into(),
            direction: Direction::Ingress,
            rule: "r/1".into(),
        };
        assert_eq!(
            [
                rule_ids.name(0),
                rule_ids.name(1),
                rule_ids.name(2),
                rule_ids.name(RULE_EXEMPT)
            ],
            [None, Some(&expected), None, None]
        );
        // The description is no part of the rule, and a group may change its name.
        model.groups[0].name = "alpha".into();
        model.groups[0].ingress[0].description = "new".into();
        assert_eq!(rule_ids.number(&model, GroupIndex(0), Direction::Ingress).unwrap(), [1]);
        assert_eq!(rule_ids.name(1).unwrap().group_name, "alpha");
    }
}
