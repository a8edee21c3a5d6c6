//! Matching of a group's rules with their ids: `SecurityGroups` has the rules, `SecurityGroupRules` the same rules with ids.

use std::collections::HashMap;

use taskgate_model::{Direction, Protocol};

use super::super::raw::{AwsRule, RawGroup, RawPeer, RawRule};

/// The parts of a rule's peering connection that are compared: the id, and whether its status is not active.
type Over = (Option<String>, Option<bool>);

/// The fields by which rules are compared.
#[derive(Clone, Copy)]
struct View {
    connection: bool,
    status: bool,
    /// Restricts the comparison to rules without a connection id.
    unnamed: bool,
}

impl View {
    const fn new(connection: bool, status: bool) -> Self {
        Self {
            connection,
            status,
            unnamed: false,
        }
    }

    const fn unnamed(status: bool) -> Self {
        Self {
            connection: false,
            status,
            unnamed: true,
        }
    }

    fn of(self, rule: &RawRule) -> Option<Over> {
        let connection = rule.connection();
        if self.unnamed && connection.is_some() {
            return None;
        }
        let connection = connection.filter(|_| self.connection).map(str::to_owned);
        Some((connection, self.status.then(|| rule.inactive().is_some())))
    }
}

/// The comparisons of both sides, the strictest first. Two rules can refer to one group over an old and a new connection; a
/// side without a connection id agrees with any.
const VIEWS: [(View, View); 6] = [
    (View::new(true, true), View::new(true, true)),
    (View::new(true, false), View::new(true, false)),
    (View::unnamed(true), View::new(false, true)),
    (View::new(false, true), View::unnamed(true)),
    (View::unnamed(false), View::new(false, false)),
    (View::new(false, false), View::unnamed(false)),
];

type Key = (Direction, Protocol, RawPeer, Over);

/// Assigns ids to the group's rules from their counterparts. Returns the counterparts that match no rule.
pub(super) fn pair(group: &mut RawGroup, mut rules: Vec<AwsRule>) -> Vec<AwsRule> {
    for (own_view, listed_view) in VIEWS {
        if rules.is_empty() {
            break;
        }
        let mut positions: HashMap<Key, Vec<usize>> = HashMap::new();
        for direction in Direction::BOTH {
            for (position, own) in group.rules_mut(direction).iter().enumerate().rev() {
                if own.id.is_none()
                    && let Some(over) = own_view.of(own)
                {
                    let key = (direction, own.protocol, own.peer.clone(), over);
                    positions.entry(key).or_default().push(position);
                }
            }
        }
        rules.retain_mut(|listed| {
            let Some(over) = listed_view.of(&listed.rule) else {
                return true;
            };
            let key = (listed.direction, listed.rule.protocol, listed.rule.peer.clone(), over);
            let position = positions.get_mut(&key).and_then(Vec::pop);
            let own = position.and_then(|position| group.rules_mut(listed.direction).get_mut(position));
            own.map(|own| merge(own, listed)).is_none()
        });
    }
    rules
}

/// Completes a rule from its counterpart.
fn merge(own: &mut RawRule, listed: &mut AwsRule) {
    if own.description.is_empty() {
        own.description = std::mem::take(&mut listed.rule.description);
    }
    // One side may omit the peering connection; of two statuses, the one that is not active counts.
    if let Some(told) = listed.rule.peering.take() {
        let active = own.inactive().is_none();
        let peering = own.peering.get_or_insert_default();
        peering.connection = peering.connection.take().or(told.connection);
        if active && told.status.is_some() {
            peering.status = told.status;
        }
    }
    own.id = Some(std::mem::take(&mut listed.id));
}
