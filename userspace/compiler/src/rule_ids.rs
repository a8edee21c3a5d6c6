//! Rule numbers, by which tracked connections and policies name a rule.

use std::collections::HashMap;

use taskgate_ebpf::abi::tables::RULE_EXEMPT;
use taskgate_model::{Direction, GroupId, GroupIndex, IcmpMatch, Model, Peer, Protocol, Rule};

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

/// The register of rule numbers. A rule is identified by its group, direction, id and content; if any of them changes, it is
/// another rule with another number, and no number is ever reused. Numbers run from 1 and stay below [`RULE_EXEMPT`], the
/// highest number that fits into entries.
#[derive(Debug, Default)]
pub struct RuleIds {
    rules: Vec<NumberedRule>,
    /// By [`NumberedRule::content`].
    numbers: HashMap<String, u32>,
}

/// A numbered rule, in a form that one process can leave to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedRule {
    /// The rule's names.
    pub name: RuleName,
    /// The identity of the rule: by ids, never by positions in a model.
    pub content: String,
}

/// The content of one part of a rule, as in [`NumberedRule::content`].
fn part(model: &Model, rule: &Rule) -> String {
    let protocol = match rule.protocol {
        Protocol::All => String::from("all"),
        Protocol::Tcp(ports) => format!("tcp {}-{}", ports.from, ports.to),
        Protocol::Udp(ports) => format!("udp {}-{}", ports.from, ports.to),
        Protocol::Icmp(message) => format!("icmp {}", icmp(message)),
        Protocol::Icmpv6(message) => format!("icmpv6 {}", icmp(message)),
        Protocol::Number(number) => format!("protocol {number}"),
    };
    let peer = match &rule.peer {
        Peer::V4(net) => net.to_string(),
        Peer::V6(net) => net.to_string(),
        Peer::PrefixList(list) => format!("{:?}", model.prefix_list(*list).id),
        Peer::Group(group) => format!("{:?}", model.group(*group).id),
        Peer::Missing(id) => format!("{id:?}"),
    };
    format!("{protocol} {peer}")
}

fn icmp(message: IcmpMatch) -> String {
    match message {
        IcmpMatch::All => String::from("all"),
        IcmpMatch::Type(kind) => kind.to_string(),
        IcmpMatch::TypeCode(kind, code) => format!("{kind}/{code}"),
    }
}

impl RuleIds {
    /// A register with the rules of an earlier process, in the order of their numbers.
    pub fn of(rules: Vec<NumberedRule>) -> Self {
        let numbers = rules.iter().map(|rule| rule.content.clone()).zip(1..).collect();
        Self { rules, numbers }
    }

    /// All numbered rules, in the order of their numbers.
    pub fn rules(&self) -> &[NumberedRule] {
        &self.rules
    }

    /// The rule with this number, even if no configuration has it any more.
    pub fn name(&self, number: u32) -> Option<&RuleName> {
        Some(&self.rules.get((number as usize).checked_sub(1)?)?.name)
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

    /// The number of the rule whose parts in the model are `parts_of`: at least one, all with the same id.
    fn number_one(
        &mut self,
        model: &Model,
        group: GroupIndex,
        direction: Direction,
        parts_of: &[&Rule],
    ) -> Result<u32, CompileError> {
        let group = model.group(group);
        let parts: Vec<String> = parts_of.iter().map(|rule| part(model, rule)).collect();
        let rule = &parts_of[0].id;
        let content = format!("{:?} {direction} {rule:?}: {}", group.id, parts.join(", "));
        if let Some(&number) = self.numbers.get(&content) {
            let name = &mut self.rules[number as usize - 1].name;
            name.group_name.clone_from(&group.name);
            return Ok(number);
        }
        let number = u32::try_from(self.rules.len() + 1)
            .ok()
            .filter(|number| *number < RULE_EXEMPT)
            .ok_or_else(|| CompileError::RuleNumbersExhausted {
                group: group.id.clone(),
                direction,
            })?;
        let name = RuleName {
            group: group.id.clone(),
            group_name: group.name.clone(),
            direction,
            rule: rule.clone(),
        };
        self.numbers.insert(content.clone(), number);
        self.rules.push(NumberedRule { name, content });
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
    fn a_later_process_goes_on_with_the_numbers_of_an_earlier_one() {
        let rules = [rule("r/1", 80, any()), rule("r/2", 22, any())];
        let model = model(&["a"], &rules);
        let mut before = RuleIds::default();
        let given = before.number(&model, GroupIndex(0), Direction::Ingress).unwrap();
        let mut after = RuleIds::of(before.rules().to_vec());
        assert_eq!(after.number(&model, GroupIndex(0), Direction::Ingress).unwrap(), given);
        assert_eq!(
            after.number(&model, GroupIndex(0), Direction::Egress).unwrap(),
            [] as [u32; 0]
        );
        assert_eq!(after.name(2), before.name(2));
        let contents: Vec<&str> = after.rules().iter().map(|rule| rule.content.as_str()).collect();
        assert_eq!(
            contents,
            [
                r#""sg-a" ingress "r/1": tcp 80-80 0.0.0.0/0"#,
                r#""sg-a" ingress "r/2": tcp 22-22 0.0.0.0/0"#
            ]
        );
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
