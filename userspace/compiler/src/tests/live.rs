//! ENIs that are added and removed in the current generation: packets read the same as after compiling the whole model.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::properties::{Choices, config, found, model, packets};
use super::*;
use crate::{LiveChange, oracle};

/// The tasks that are added and removed, and their possible addresses.
const TASKS: u64 = 6;
const ADDRESSES: [&str; 8] = [
    "10.0.1.200",
    "10.0.1.201",
    "10.0.1.3",
    "2001:db8:0:1::3",
    "2001:db8:0:1::c8",
    "10.9.0.1",
    "10.9.0.2",
    "10.9.0.3",
];

/// An image with a model in force.
struct InForce {
    host: Host,
    model: Model,
    /// The numbers of changes without a compilation, and with one.
    live: u32,
    compiled: u32,
}

impl InForce {
    fn new(model: Model) -> Self {
        let mut host = Host::new(1);
        host.apply(&model).unwrap();
        Self {
            host,
            model,
            live: 0,
            compiled: 0,
        }
    }

    /// Switches to a model, by a live change if possible.
    fn bring(&mut self, next: Model) {
        let writer = &mut self.host.writer;
        let done = match LiveChange::between(&self.model, &next) {
            Some(LiveChange::Added(eni)) => {
                let staged = writer.stage_eni(&next, eni, NO_LIMITS, true).unwrap();
                staged.map(super::super::StagedEni::commit).is_some()
            }
            Some(LiveChange::Removed(eni)) => writer.remove_eni(&next, eni),
            None => false,
        };
        if done {
            self.live += 1;
        } else {
            self.host.apply(&next).unwrap();
            self.compiled += 1;
        }
        self.model = next;
    }

    /// The model with another task, or `None` if it would be invalid.
    fn with(&mut self, task: u64, choices: &mut Choices) -> Option<Model> {
        let mut added = eni(&format!("eni-t{task}"), &[], &[0]);
        for _ in 0..=choices.next() % 2 {
            added.addresses.push(address(choices.pick(&ADDRESSES)));
        }
        added.addresses.dedup();
        let gated: Vec<&Eni> = self.model.gated().collect();
        let twin = choices.pick(&gated);
        (added.groups, added.vpc) = (twin.groups.clone(), twin.vpc.clone());
        if choices.next().is_multiple_of(4) {
            added.groups = vec![GroupIndex(choices.next() as usize % self.model.groups.len())];
        }
        let mut next = self.model.clone();
        next.enis.insert(1 + choices.next() as usize % next.enis.len(), added);
        self.host.compile(&next, &[]).ok().map(|_| next)
    }

    fn step(&mut self, choices: &mut Choices) {
        let task = choices.next() % TASKS;
        let id = format!("eni-t{task}");
        match choices.next() % 10 {
            0 => {
                let same = self.model.clone();
                self.host.apply(&same).unwrap();
            }
            1 | 2 => self.host.writer.synchronize(&mut || ()),
            3 => {
                // Staged and then dropped.
                if let Some(next) = self.with(TASKS, choices)
                    && let Some(LiveChange::Added(eni)) = LiveChange::between(&self.model, &next)
                {
                    drop(self.host.writer.stage_eni(&next, eni, NO_LIMITS, true).unwrap());
                }
            }
            4 => {
                let gated = self.model.gated().filter_map(|eni| self.host.writer.slot(&eni.id));
                let slot = choices.pick(&gated.collect::<Vec<_>>());
                self.host.writer.isolate(slot, true).unwrap();
                self.host.writer.isolate(slot, false).unwrap();
            }
            _ if self.model.enis.iter().any(|eni| eni.id == id) => {
                let mut next = self.model.clone();
                next.enis.retain(|eni| eni.id != id);
                self.bring(next);
            }
            _ => {
                if let Some(next) = self.with(task, choices) {
                    self.bring(next);
                }
            }
        }
    }

    /// Checks the image against the model, for every gate, address and packet.
    fn check(&self, seed: u64) -> Result<(), TestCaseError> {
        let reader = self.host.reader();
        let slots: Vec<u16> = self
            .model
            .gated()
            .map(|eni| self.host.writer.slot(&eni.id).unwrap())
            .collect();
        for (eni, slot) in self.model.gated().zip(&slots) {
            prop_assert!(reader.slot(*slot).is_some(), "{} is not there", eni.id);
            for (direction, packet) in packets(&self.model, seed, 40) {
                let allowed = oracle::classify(&self.model, eni, direction, &packet);
                let allowed = allowed.as_ref().map(|allowed| {
                    let group = self.model.group(allowed.group);
                    (&*group.id, direction, &*allowed.rule.id, allowed.untracked)
                });
                let found = found(&self.host.rule_ids, reader.classify(*slot, direction, &packet));
                prop_assert_eq!(found, allowed, "{} {:?} {:?}", eni.id, direction, packet);
            }
        }
        let gone = (1..=self.host.writer.slots().len() as u16 + 20).filter(|slot| !slots.contains(slot));
        for slot in gone {
            prop_assert_eq!(reader.slot(slot), None);
        }
        for text in ADDRESSES {
            let has = |eni: &&Eni| eni.addresses.contains(&address(text));
            let gated = self.model.gated().find(has);
            let owner = gated.or_else(|| self.model.enis.iter().find(has));
            let row = reader.address(address(text));
            let slot = owner.and_then(|eni| self.host.writer.slot(&eni.id));
            prop_assert_eq!(row.slot, slot.unwrap_or(0), "{}", text);
            prop_assert_eq!(row.flags != 0, owner.is_some(), "{}", text);
        }
        Ok(())
    }
}

#[test]
fn any_sequence_of_changes_ends_where_a_compilation_does() {
    let [live, compiled] = [Cell::new(0), Cell::new(0)];
    let config = config();
    // Each case is many steps.
    let cases = config.cases.div_ceil(8);
    TestRunner::new(Config { cases, ..config })
        .run(&(model(), any::<u64>().no_shrink()), |(mut model, seed)| {
            // Addresses in several VPCs have their own tests.
            for eni in &mut model.enis {
                eni.vpc = None;
            }
            let mut seen = Vec::new();
            for eni in &mut model.enis {
                eni.addresses.retain(|address| !seen.contains(address));
                seen.extend(eni.addresses.clone());
            }
            let mut in_force = InForce::new(model);
            let mut choices = Choices(seed);
            for step in 0..20 {
                in_force.step(&mut choices);
                in_force.check(seed ^ step)?;
            }
            live.set(live.get() + in_force.live);
            compiled.set(compiled.get() + in_force.compiled);
            Ok(())
        })
        .unwrap();
    let (live, compiled) = (live.get(), compiled.get());
    assert!(
        live > compiled && compiled > 0,
        "{live} changes went live, {compiled} by compilation"
    );
}

/// Slots and rows of a removed ENI are not reused before a grace period.
#[test]
fn nothing_of_a_gone_eni_is_used_again_before_a_grace_period() {
    let model = |enis: &[u8]| Model {
        groups: vec![group("a", vec![rule("in", tcp(80, 80), net("0.0.0.0/0"))], vec![])],
        enis: enis
            .iter()
            .map(|last| eni(&format!("eni-{last}"), &[&format!("10.0.0.{last}")], &[0]))
            .collect(),
        ..Model::default()
    };
    let mut in_force = InForce::new(model(&[1, 2]));
    in_force.host.writer.synchronize(&mut || ());
    in_force.host.writer.add_link(LinkId::device(7), 2).unwrap();
    let index = |host: &Host, last: u8| {
        host.writer
            .members
            .index(super::super::compiled::key_of(address(&format!("10.0.0.{last}"))))
    };
    let gone = index(&in_force.host, 2).unwrap();
    in_force.bring(model(&[1]));
    assert_eq!(in_force.host.writer.control().epoch(2), 1);
    assert_eq!(in_force.host.reader().link(LinkId::device(7)), None);
    in_force.bring(model(&[1, 3]));
    assert_ne!(index(&in_force.host, 3), Some(gone));
    // The link still names its slot.
    in_force.host.writer.synchronize(&mut || ());
    assert_eq!(in_force.host.writer.eni(2), Some("eni-2"));
    in_force.host.writer.remove_link(LinkId::device(7));
    assert_eq!(in_force.host.writer.eni(2), Some("eni-2"));
    in_force.host.writer.synchronize(&mut || ());
    assert_eq!(in_force.host.writer.eni(2), None);
    in_force.bring(model(&[1, 3, 4]));
    assert_eq!(index(&in_force.host, 4), Some(gone));
    assert_eq!(in_force.host.graces, 0, "something was waited for");
    assert_eq!((in_force.live, in_force.compiled), (3, 0));
    assert_eq!(in_force.host.writer.generation(), 1);
}

#[test]
fn what_is_more_than_one_eni_takes_a_generation() {
    let base = Model {
        groups: vec![group("a", vec![], vec![]), group("b", vec![], vec![])],
        enis: vec![eni("eni-1", &["10.0.0.1"], &[0]), member("eni-m", &["10.0.0.9"], &[0])],
        ..Model::default()
    };
    let changed = |change: &dyn Fn(&mut Model)| {
        let mut next = base.clone();
        change(&mut next);
        next
    };
    let comes = |groups: &[usize], at: &str| {
        let added = eni("eni-2", &[at], groups);
        move |next: &mut Model| next.enis.push(added.clone())
    };
    let stages = |next: &Model| {
        let mut in_force = InForce::new(base.clone());
        let Some(LiveChange::Added(eni)) = LiveChange::between(&base, next) else {
            return false;
        };
        in_force
            .host
            .writer
            .stage_eni(next, eni, NO_LIMITS, true)
            .unwrap()
            .is_some()
    };
    assert!(stages(&changed(&comes(&[0], "10.0.0.2"))));
    // Groups that no ENI has, an address of another ENI, another changed rule.
    assert!(!stages(&changed(&comes(&[1], "10.0.0.2"))));
    assert!(!stages(&changed(&comes(&[0], "10.0.0.9"))));
    let two = changed(&|next| {
        comes(&[0], "10.0.0.2")(next);
        next.groups[0].ingress.push(rule("in", tcp(1, 1), net("0.0.0.0/0")));
    });
    assert_eq!(LiveChange::between(&base, &two), None);
    let member_comes = changed(&|next| next.enis.push(member("eni-n", &["10.0.0.8"], &[0])));
    assert_eq!(LiveChange::between(&base, &member_comes), None);
    assert_eq!(LiveChange::between(&base, &base), None);
}
