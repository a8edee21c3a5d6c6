//! Added, removed, changed and moved rules.
//!
//! Rules of the native form are named by position, so removing one renames all rules after it. Rules of one group and
//! direction are matched first by name and content, then by content, then by name.

use std::collections::HashMap;

use taskgate_model::{Direction, GroupIndex, Model, Peer, Rule};

use taskgate_api::{Change, ObjectChange, ObjectKind};

use super::object::{Named, Object, Value};
use crate::display;

/// The field with a rule's id, which serves as its name.
const RULE: &str = "rule";

/// Compares the rules of all groups.
pub(super) fn compare(before: &Model, after: &Model) -> Vec<ObjectChange> {
    let by_id = |model: &Model| -> HashMap<String, GroupIndex> {
        let ids = model.groups.iter().enumerate();
        ids.map(|(at, group)| (group.id.clone(), GroupIndex(at))).collect()
    };
    let [old, new] = [before, after].map(by_id);
    let kept = after.groups.iter().enumerate().map(|(at, group)| {
        let was = old.get(&group.id).copied();
        (was, Some(GroupIndex(at)))
    });
    let gone = before
        .groups
        .iter()
        .enumerate()
        .filter(|(_, group)| !new.contains_key(&group.id));
    let gone = gone.map(|(at, _)| (Some(GroupIndex(at)), None));
    let mut changes = Vec::new();
    for (was, is) in kept.chain(gone) {
        for direction in Direction::BOTH {
            let was = Side::new(before, was, direction);
            let is = Side::new(after, is, direction);
            changes.extend(of_group(&was, &is, direction));
        }
    }
    changes
}

/// The rules of a group in one direction, in one of the models.
struct Side<'a> {
    model: &'a Model,
    group: Option<GroupIndex>,
    direction: Direction,
    rules: Vec<Whole<'a>>,
}

/// A rule with all its parts, which share an id.
struct Whole<'a> {
    id: &'a str,
    parts: Vec<&'a Rule>,
    /// The content, by ids.
    content: String,
}

impl<'a> Side<'a> {
    fn new(model: &'a Model, group: Option<GroupIndex>, direction: Direction) -> Self {
        let mut rules: Vec<Whole<'a>> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let parts = group.map_or(&[][..], |group| model.group(group).rules(direction));
        for part in parts {
            let at = *places.entry(&part.id).or_insert(rules.len());
            if at == rules.len() {
                rules.push(Whole {
                    id: &part.id,
                    parts: Vec::new(),
                    content: String::new(),
                });
            }
            rules[at].parts.push(part);
        }
        for rule in &mut rules {
            let keys: Vec<String> = rule.parts.iter().map(|part| key(model, part)).collect();
            rule.content = keys.join("\n");
        }
        Self {
            model,
            group,
            direction,
            rules,
        }
    }

    /// A rule as an object; `place`: its position, if the rule moves.
    fn object(&self, rule: &Whole<'_>, place: Option<usize>) -> Object {
        let says = rule.parts.iter().map(|part| {
            let text = display::rule(self.model, self.direction, part);
            Value::with_key(key(self.model, part), text)
        });
        let mut descriptions: Vec<&str> = rule.parts.iter().map(|part| &*part.description).collect();
        descriptions.dedup();
        let described = descriptions.into_iter().filter(|text| !text.is_empty());
        Object::default()
            .list("allows", says)
            .field(RULE, Some(rule.id))
            .field("place", place.map(|place| place.to_string()))
            .list("description", described.map(Value::new))
    }
}

/// The content of one part of a rule, by ids.
fn key(model: &Model, rule: &Rule) -> String {
    let Rule {
        id: _,
        protocol,
        peer,
        description: _,
        location: _,
    } = rule;
    let peer = match peer {
        Peer::V4(net) => net.to_string(),
        Peer::V6(net) => net.to_string(),
        Peer::PrefixList(list) => format!("{:?}", model.prefix_list(*list).id),
        Peer::Group(group) => format!("{:?}", model.group(*group).id),
        Peer::Missing(id) => format!("missing {id:?}"),
    };
    format!("{protocol:?} {peer}")
}

fn of_group(before: &Side<'_>, after: &Side<'_>, direction: Direction) -> Vec<ObjectChange> {
    let pairs = pairs(&before.rules, &after.rules);
    let mut olds: Vec<Option<(usize, [Option<usize>; 2])>> = vec![None; after.rules.len()];
    let mut is_kept = vec![false; before.rules.len()];
    for (pair, places) in pairs.iter().zip(places(&pairs)) {
        olds[pair.1] = Some((pair.0, places));
        is_kept[pair.0] = true;
    }
    let kept = after.rules.iter().zip(olds).filter_map(|(rule, old)| {
        let [was_at, is_at] = old.map(|(_, places)| places).unwrap_or_default();
        let was = old.map(|(was, _)| before.object(&before.rules[was], was_at));
        named(rule.id).change(was, Some(after.object(rule, is_at)))
    });
    let gone = before.rules.iter().zip(is_kept).filter(|(_, is_kept)| !is_kept);
    let gone = gone.filter_map(|(rule, _)| named(rule.id).change(Some(before.object(rule, None)), None));
    let mut changes: Vec<ObjectChange> = kept.chain(gone).collect();
    let group = match (after.group, before.group) {
        (Some(group), _) => after.model.group(group),
        (None, Some(group)) => before.model.group(group),
        (None, None) => return changes,
    };
    for change in &mut changes {
        change.group = Some(group.id.clone());
        change.name = Some(group.name.clone());
        change.direction = Some(direction.to_string());
        if change.change != Change::Changed {
            // The object's name is already the rule's id.
            change.fields.retain(|field| field.field != RULE);
        }
    }
    changes
}

fn named(id: &str) -> Named {
    Named {
        kind: ObjectKind::Rule,
        id: id.to_owned(),
        name: None,
    }
}

/// The matched rules, by their positions before and after, in the order before.
fn pairs(before: &[Whole<'_>], after: &[Whole<'_>]) -> Vec<(usize, usize)> {
    let by: [fn(&Whole<'_>) -> String; 3] = [
        |rule| format!("{}\n{}", rule.id, rule.content),
        |rule| rule.content.clone(),
        |rule| rule.id.to_owned(),
    ];
    let mut pairs = Vec::new();
    let mut is_old_free = vec![true; before.len()];
    let mut is_new_free = vec![true; after.len()];
    for by in by {
        let mut free: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, rule) in after.iter().enumerate().rev().filter(|(at, _)| is_new_free[*at]) {
            free.entry(by(rule)).or_default().push(at);
        }
        for (was, rule) in before.iter().enumerate() {
            if is_old_free[was]
                && let Some(now) = free.get_mut(&by(rule)).and_then(Vec::pop)
            {
                (is_old_free[was], is_new_free[now]) = (false, false);
                pairs.push((was, now));
            }
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The positions of rules among the matched ones, before and after, from 1; only for the smallest set of rules that must
/// move so that the others keep their order.
pub(super) fn places(pairs: &[(usize, usize)]) -> Vec<[Option<usize>; 2]> {
    if pairs.is_sorted_by_key(|(_, now)| *now) {
        return vec![[None; 2]; pairs.len()];
    }
    // For each pair: the length of the longest increasing run that ends with it, and the previous pair in that run.
    let mut runs: Vec<(usize, Option<usize>)> = Vec::with_capacity(pairs.len());
    for (at, (_, now)) in pairs.iter().enumerate() {
        let lower = (0..at).filter(|&other| pairs[other].1 < *now);
        let longest = lower.max_by_key(|&other| runs[other].0);
        runs.push((longest.map_or(1, |other| runs[other].0 + 1), longest));
    }
    let mut moves = vec![true; pairs.len()];
    let mut next = (0..pairs.len()).max_by_key(|&at| runs[at].0);
    while let Some(at) = next {
        moves[at] = false;
        next = runs[at].1;
    }
    let mut after: Vec<usize> = pairs.iter().map(|(_, now)| *now).collect();
    after.sort_unstable();
    let rank = |now: usize| after.partition_point(|other| *other < now);
    let place = |(at, (_, now)): (usize, &(usize, usize))| {
        let places = [at + 1, rank(*now) + 1].map(Some);
        if moves[at] { places } else { [None; 2] }
    };
    pairs.iter().enumerate().map(place).collect()
}
