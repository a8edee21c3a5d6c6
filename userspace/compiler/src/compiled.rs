//! A compiled model: policies as blocks of words, and the planned contents of slot and address rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use taskgate_ebpf::abi::Address;
use taskgate_ebpf::abi::image::{address, slot};
use taskgate_model::{Direction, Eni, Family, GroupId, GroupIndex, Model, Peerings};

use super::policy::PolicyCompiler;
use super::{CompileError, GroupSetIds, RuleIds};

/// The caller's limits for an ENI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EniLimits {
    /// The most tracked connections of the ENI; [`NO_CAP`](taskgate_ebpf::abi::image::NO_CAP): no limit.
    pub connections: u32,
    /// Whether the ENI is isolated: all its packets are dropped.
    pub isolated: bool,
}

/// Options of a compilation that are not in the model.
#[derive(Clone, Copy)]
pub struct CompileOptions<'a> {
    /// The limits of each ENI with a gate here, which gets a slot; `None` for other ENIs, which are still members of their
    /// groups.
    pub gate: &'a dyn Fn(&Eni) -> Option<EniLimits>,
    /// The addresses that tasks may open connections to without a rule.
    pub exempt: &'a [IpAddr],
    /// Whether tasks may talk DHCP without a rule.
    pub dhcp: bool,
}

/// A compiled model, independent of any image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The policies' blocks, each once.
    pub(super) policies: Vec<Arc<[u64]>>,
    /// The slots' rows, in the order of the model.
    pub(super) slots: Vec<SlotPlan>,
    /// The addresses' rows, by address (IPv4 mapped).
    pub(super) addresses: BTreeMap<u128, AddressPlan>,
}

/// The content of a slot's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotPlan {
    /// The ENI's id.
    pub(super) eni: String,
    /// Indexes in [`Compiled::policies`], in the order of [`ROOTS`].
    pub(super) policies: [usize; 4],
    /// Flags of the row.
    pub(super) flags: u32,
    /// The ENI's group set.
    pub(super) set: u32,
    /// The limits.
    pub(super) gate: EniLimits,
}

/// The content of an address's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AddressPlan {
    /// The index of the gated ENI with this address in [`Compiled::slots`].
    pub(super) slot: Option<usize>,
    /// Flags of the row.
    pub(super) flags: u32,
    /// The group set of the ENI with this address.
    pub(super) set: u32,
}

/// The four policies of a slot, in the order of its row.
pub(super) const ROOTS: [(Direction, Family); 4] = [
    (Direction::Egress, Family::V4),
    (Direction::Egress, Family::V6),
    (Direction::Ingress, Family::V4),
    (Direction::Ingress, Family::V6),
];

/// An address as a key of the image: IPv6, with IPv4 mapped (`::ffff:a.b.c.d`).
pub(super) fn key_of(address: IpAddr) -> u128 {
    Address::from(address).to_bits()
}

impl Compiled {
    /// Compiles a model. ENIs with the same groups in the same order share their policies, and equal policies become one
    /// block.
    ///
    /// # Errors
    /// [`CompileError::TooManyRules`], [`CompileError::PolicyTooLarge`], [`CompileError::RuleNumbersExhausted`],
    /// [`CompileError::AddressConflict`].
    pub fn new(
        model: &Model,
        scope: CompileOptions<'_>,
        rule_ids: &mut RuleIds,
        sets: &mut GroupSetIds,
    ) -> Result<Self, CompileError> {
        let set_of: Vec<u32> = model
            .enis
            .iter()
            .map(|eni| sets.intern(eni.groups.iter().map(|&group| &model.group(group).id)))
            .collect();
        let gates: Vec<Option<EniLimits>> = model.enis.iter().map(scope.gate).collect();
        let owners = Owners::new(model, &set_of, sets)?;
        let overlaps = owners.overlaps(model);
        let mut policies = Policies::new(prepare_rules(model, &set_of, &gates, rule_ids, overlaps)?);

        let mut slots = Vec::new();
        let mut addresses: BTreeMap<u128, AddressPlan> = BTreeMap::new();
        for (at, eni) in model.enis.iter().enumerate() {
            let place = gates[at].map(|_| slots.len());
            if let Some(gate) = gates[at] {
                slots.push(SlotPlan {
                    eni: eni.id.clone(),
                    policies: policies.of(eni)?,
                    flags: slot_flags(eni, gate, scope.dhcp),
                    set: set_of[at],
                    gate,
                });
            }
            for &address in &eni.addresses {
                let key = key_of(address);
                let plan = addresses.entry(key).or_default();
                plan.flags = address::PRESENT;
                plan.set = owners.several.get(&key).map_or(set_of[at], |several| several.set);
                if plan.slot.is_none() || eni.binding.is_some() {
                    plan.slot = place.or(plan.slot);
                }
            }
        }
        for &exempt in scope.exempt {
            addresses.entry(key_of(exempt)).or_default().flags |= address::PRESENT | address::EXEMPT;
        }
        Ok(Self {
            policies: policies.blocks,
            slots,
            addresses,
        })
    }

    /// The number of address rows: addresses of ENIs, and exempt ones.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// The number of distinct policies.
    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    /// The size of all policies in bytes.
    pub fn policy_bytes(&self) -> usize {
        self.policies.iter().map(|block| block.len() * 8).sum()
    }
}

pub(super) fn slot_flags(eni: &Eni, gate: EniLimits, dhcp: bool) -> u32 {
    slot::PRESENT
        | if eni.source_dest_check {
            slot::SOURCE_DEST_CHECK
        } else {
            0
        }
        | if gate.isolated { slot::ISOLATED } else { 0 }
        | if dhcp { slot::EXEMPT_DHCP } else { 0 }
}

/// Ownership of addresses that several ENIs share.
struct Owners {
    /// Addresses of several ENIs with different groups.
    several: BTreeMap<u128, Several>,
}

/// An address of several ENIs.
struct Several {
    /// Positions in the model, ascending.
    enis: Vec<usize>,
    /// The number of its group set.
    set: u32,
}

impl Owners {
    /// Finds addresses that occur in several VPCs. ENIs in one VPC, or without a VPC, must have the same groups to share an
    /// address; two ENIs that are bound here cannot share an address at all: its row names one slot.
    fn new(model: &Model, set_of: &[u32], sets: &mut GroupSetIds) -> Result<Self, CompileError> {
        let mut first: HashMap<u128, usize> = HashMap::new();
        let mut shared: BTreeMap<u128, Vec<usize>> = BTreeMap::new();
        for (at, eni) in model.enis.iter().enumerate() {
            for &address in &eni.addresses {
                let key = key_of(address);
                let owner = *first.entry(key).or_insert(at);
                if owner == at {
                    continue;
                }
                let enis = shared.entry(key).or_insert_with(|| vec![owner]);
                for &other_at in enis.iter() {
                    let other = &model.enis[other_at];
                    let both_here = other.binding.is_some() && eni.binding.is_some();
                    let apart = other.vpc.is_some() && eni.vpc.is_some() && other.vpc != eni.vpc;
                    if other_at != at && (both_here || !apart && set_of[other_at] != set_of[at]) {
                        return Err(CompileError::AddressConflict {
                            address,
                            first: other.display_name().into(),
                            second: eni.display_name().into(),
                        });
                    }
                }
                enis.push(at);
            }
        }
        shared.retain(|_, enis| enis.iter().any(|&at| set_of[at] != set_of[enis[0]]));
        let claim = |at: &usize| {
            let eni = &model.enis[*at];
            let groups = eni.groups.iter().map(|&group| model.group(group).id.clone());
            let mut groups: Vec<GroupId> = groups.collect();
            groups.sort_unstable();
            (eni.vpc.clone(), eni.binding.is_some(), groups)
        };
        let several = shared.into_iter().map(|(key, enis)| {
            let set = sets.intern_overlap(enis.iter().map(claim).collect());
            (key, Several { enis, set })
        });
        Ok(Self {
            several: several.collect(),
        })
    }

    /// The ENIs behind each group set of a shared address.
    fn overlaps<'a>(&self, model: &'a Model) -> BTreeMap<u32, Vec<&'a Eni>> {
        let enis = |several: &Several| several.enis.iter().map(|&at| &model.enis[at]).collect();
        self.several
            .values()
            .map(|several| (several.set, enis(several)))
            .collect()
    }
}

/// Numbers the rules of every group of a gated ENI, and finds the group sets that contain each group.
fn prepare_rules<'a>(
    model: &'a Model,
    set_of: &[u32],
    gates: &[Option<EniLimits>],
    rule_ids: &mut RuleIds,
    overlaps: BTreeMap<u32, Vec<&'a Eni>>,
) -> Result<PolicyCompiler<'a>, CompileError> {
    let mut gated: BTreeSet<GroupIndex> = BTreeSet::new();
    let mut sets: HashMap<GroupIndex, BTreeSet<u32>> = HashMap::new();
    for (at, eni) in model.enis.iter().enumerate() {
        for &group in &eni.groups {
            sets.entry(group).or_default().insert(set_of[at]);
        }
        if gates[at].is_some() {
            gated.extend(&eni.groups);
        }
    }
    let mut numbers = HashMap::new();
    for group in gated {
        for direction in [Direction::Egress, Direction::Ingress] {
            numbers.insert((group, direction), rule_ids.number(model, group, direction)?);
        }
    }
    let peerings = if overlaps.is_empty() {
        Peerings::default()
    } else {
        Peerings::new(model)
    };
    Ok(PolicyCompiler {
        model,
        numbers,
        sets,
        overlaps,
        peerings,
    })
}

/// The key of an ENI's policies: its groups, and its near ENIs where VPCs overlap.
type Near<'a> = (&'a [GroupIndex], Option<&'a str>, bool);

/// The policies compiled so far, by key and by content.
struct Policies<'a> {
    prepare_rules: PolicyCompiler<'a>,
    by_gate: HashMap<Near<'a>, [usize; 4]>,
    by_content: HashMap<Arc<[u64]>, usize>,
    blocks: Vec<Arc<[u64]>>,
}

impl<'a> Policies<'a> {
    fn new(prepare_rules: PolicyCompiler<'a>) -> Self {
        Self {
            prepare_rules,
            by_gate: HashMap::new(),
            by_content: HashMap::new(),
            blocks: Vec::new(),
        }
    }

    /// The indexes of the four policies of an ENI.
    fn of(&mut self, eni: &'a Eni) -> Result<[usize; 4], CompileError> {
        let near = if self.prepare_rules.overlaps.is_empty() {
            (eni.groups.as_slice(), None, false)
        } else {
            (eni.groups.as_slice(), eni.vpc.as_deref(), eni.binding.is_some())
        };
        if let Some(&places) = self.by_gate.get(&near) {
            return Ok(places);
        }
        let overlaps = self.prepare_rules.overlaps_seen_from(eni);
        let mut places = [0; 4];
        for (place, (direction, family)) in places.iter_mut().zip(ROOTS) {
            let block: Arc<[u64]> = self
                .prepare_rules
                .policy(&eni.groups, direction, family, &overlaps)?
                .into();
            *place = *self.by_content.entry(block).or_insert_with_key(|block| {
                self.blocks.push(Arc::clone(block));
                self.blocks.len() - 1
            });
        }
        self.by_gate.insert(near, places);
        Ok(places)
    }
}
