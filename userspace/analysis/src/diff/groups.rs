//! Added, removed and changed groups and prefix lists.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use taskgate_model::{Model, PrefixList, SecurityGroup};

use taskgate_api::{ObjectChange, ObjectKind};

use super::object::{Named, Object, Value};

/// Compares the groups, without their rules.
pub(super) fn compare(before: &Model, after: &Model) -> Vec<ObjectChange> {
    let named = |group: &SecurityGroup| Named {
        kind: ObjectKind::Group,
        id: group.id.clone(),
        name: Some(group.name.clone()),
    };
    by_id(&before.groups, &after.groups, |group| &group.id, named, group_object)
}

/// Compares the prefix lists, ignoring the order of their entries.
pub(super) fn compare_lists(before: &Model, after: &Model) -> Vec<ObjectChange> {
    let named = |list: &PrefixList| Named {
        kind: ObjectKind::PrefixList,
        id: list.id.clone(),
        name: list.name.clone(),
    };
    let lists = [&before.prefix_lists, &after.prefix_lists];
    by_id(lists[0], lists[1], |list| &list.id, named, list_object)
}

/// Pairs the objects of two lists by id: first the objects of the new list, in its order, then the removed ones.
fn by_id<T>(
    before: &[T],
    after: &[T],
    id: impl Fn(&T) -> &String,
    named: impl Fn(&T) -> Named,
    object: impl Fn(&T) -> Object,
) -> Vec<ObjectChange> {
    let old: HashMap<&str, &T> = before.iter().map(|one| (id(one).as_str(), one)).collect();
    let new: HashSet<&str> = after.iter().map(|one| id(one).as_str()).collect();
    let kept = after.iter().filter_map(|one| {
        let was = old.get(id(one).as_str()).map(|was| object(was));
        named(one).change(was, Some(object(one)))
    });
    let gone = before.iter().filter(|one| !new.contains(id(one).as_str()));
    let gone = gone.filter_map(|one| named(one).change(Some(object(one)), None));
    kept.chain(gone).collect()
}

fn group_object(group: &SecurityGroup) -> Object {
    let SecurityGroup {
        id: _,
        name,
        vpc,
        rules_known,
        // The form of the definition does not affect its rules.
        dialect: _,
        location: _,
        // Compared rule by rule elsewhere.
        ingress: _,
        egress: _,
    } = group;
    Object::default()
        .field("name", Some(name.as_str()))
        .field("vpc", vpc.as_deref())
        .unusual("rules-known", !rules_known, "false")
}

fn list_object(list: &PrefixList) -> Object {
    let PrefixList {
        id: _,
        name,
        max_entries,
        entries,
    } = list;
    let mut nets: Vec<IpNet> = entries.iter().flatten().copied().collect();
    nets.sort_unstable();
    nets.dedup();
    Object::default()
        .field("name", name.as_deref())
        .list("entries", nets.into_iter().map(|net| Value::new(net.to_string())))
        .field("max-entries", max_entries.map(|most| most.to_string()))
        .unusual("entries-known", entries.is_none(), "false")
}
