//! ENIs in flow records, and the registry of slots.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taskgate_model::{EcsFields, Eni, RecordField};

use super::label::Label;

/// An ENI as flow records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEni {
    eni: Eni,
    primary_ipv4: Option<Ipv4Addr>,
    account: Label,
    id: Label,
    /// The other fields with a value, usually few.
    labels: Vec<(RecordField, Label)>,
}

impl LoggedEni {
    /// The ENI. `account` (twelve digits) is its owner unless it names one.
    pub fn new(eni: Eni, account: &str) -> Self {
        let EcsFields {
            cluster_name,
            cluster_arn,
            service_name,
            task_arn,
            task_id,
            task_definition_arn,
            container_instance_arn,
            container_instance_id,
            container_id,
            second_container_id,
        } = &eni.ecs;
        let fields = [
            (RecordField::TaskgateTask, &eni.task),
            (RecordField::VpcId, &eni.vpc),
            (RecordField::SubnetId, &eni.subnet),
            (RecordField::Region, &eni.region),
            (RecordField::AzId, &eni.az_id),
            (RecordField::EcsClusterName, cluster_name),
            (RecordField::EcsClusterArn, cluster_arn),
            (RecordField::EcsServiceName, service_name),
            (RecordField::EcsTaskArn, task_arn),
            (RecordField::EcsTaskId, task_id),
            (RecordField::EcsTaskDefinitionArn, task_definition_arn),
            (RecordField::EcsContainerInstanceArn, container_instance_arn),
            (RecordField::EcsContainerInstanceId, container_instance_id),
            (RecordField::EcsContainerId, container_id),
            (RecordField::EcsSecondContainerId, second_container_id),
        ];
        let label = |(field, text): (RecordField, &Option<String>)| Some((field, Label::new(text.as_deref()?)));
        Self {
            labels: fields.into_iter().filter_map(label).collect(),
            account: Label::new(eni.account.as_deref().unwrap_or(account)),
            id: Label::new(&eni.id),
            primary_ipv4: eni.primary_ipv4(),
            eni,
        }
    }

    /// `interface-id`.
    pub fn id(&self) -> &str {
        &self.eni.id
    }

    /// `account-id`: twelve digits.
    pub fn account(&self) -> &str {
        self.account.raw()
    }

    pub(super) const fn id_label(&self) -> &Label {
        &self.id
    }

    pub(super) const fn account_label(&self) -> &Label {
        &self.account
    }

    /// The ENI's value for another field.
    pub(super) fn label(&self, field: RecordField) -> Option<&Label> {
        let found = self.labels.iter().find(|(of, _)| *of == field);
        found.map(|(_, label)| label)
    }

    /// The address that represents all of its IPv4 addresses.
    pub fn primary_ipv4(&self) -> Option<Ipv4Addr> {
        self.primary_ipv4
    }

    /// The ENI as the configuration has it.
    pub fn eni(&self) -> &Eni {
        &self.eni
    }
}

/// Serialises the ENI and its account: the labels are derived from them.
impl Serialize for LoggedEni {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.eni, self.account()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LoggedEni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (eni, account) = <(Eni, String)>::deserialize(deserializer)?;
        Ok(Self::new(eni, &account))
    }
}

/// The ENIs by slot.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: HashMap<u16, Slot>,
}

#[derive(Debug)]
struct Slot {
    eni: Arc<LoggedEni>,
    /// The ENI has had traffic.
    active: bool,
    /// The configuration no longer names the ENI, and entries of the slot remain.
    retired: bool,
}

impl Registry {
    /// Assigns a slot to an ENI. An ENI with the same id and other properties stays `active`.
    pub(super) fn set(&mut self, slot: u16, eni: LoggedEni) {
        let active = self
            .slots
            .get(&slot)
            .is_some_and(|old| old.active && old.eni.id() == eni.id());
        self.slots.insert(
            slot,
            Slot {
                eni: Arc::new(eni),
                active,
                retired: false,
            },
        );
    }

    /// Marks a slot whose entries are to go.
    pub(super) fn retire(&mut self, slot: u16) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.retired = true;
        }
    }

    /// Whether the slot was retired and still has entries, as far as is known.
    pub(super) fn is_retired(&self, slot: u16) -> bool {
        self.slots.get(&slot).is_some_and(|slot| slot.retired)
    }

    /// The slots that are not retired, with their ENIs' ids.
    pub(super) fn current(&self) -> impl Iterator<Item = (u16, &str)> {
        let current = self.slots.iter().filter(|(_, slot)| !slot.retired);
        current.map(|(number, slot)| (*number, slot.eni.id()))
    }

    /// Every slot with its ENI, whether that has had traffic, and whether it is retired: for the journal.
    pub(super) fn all(&self) -> impl Iterator<Item = (u16, &Arc<LoggedEni>, bool, bool)> {
        self.slots
            .iter()
            .map(|(number, slot)| (*number, &slot.eni, slot.active, slot.retired))
    }

    /// Restores a slot as [`Registry::all`] returned it.
    pub(super) fn restore(&mut self, number: u16, eni: Arc<LoggedEni>, active: bool, retired: bool) {
        self.slots.insert(number, Slot { eni, active, retired });
    }

    /// Forgets a slot that has no entry left.
    pub(super) fn remove(&mut self, slot: u16) {
        self.slots.remove(&slot);
    }

    /// The slot's ENI, marked as active.
    pub(super) fn touch(&mut self, slot: u16) -> Option<&Arc<LoggedEni>> {
        let slot = self.slots.get_mut(&slot)?;
        slot.active = true;
        Some(&slot.eni)
    }

    /// The slot's ENI.
    pub(super) fn eni(&self, slot: u16) -> Option<&Arc<LoggedEni>> {
        self.slots.get(&slot).map(|slot| &slot.eni)
    }

    /// Every slot in rising order, with its ENI.
    pub(super) fn slots(&self) -> Vec<(u16, Arc<LoggedEni>)> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .map(|(number, slot)| (*number, Arc::clone(&slot.eni)))
            .collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// The ENIs that are not retired and have had traffic, in the order of their ids.
    pub(super) fn active(&self) -> Vec<Arc<LoggedEni>> {
        let mut active: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.active && !slot.retired)
            .map(|slot| Arc::clone(&slot.eni))
            .collect();
        active.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        active
    }
}
