//! The gates on a packet's path, evaluated by the code that the kernel runs.

use std::collections::HashSet;

use serde::{Serialize, Serializer};
use taskgate_compiler::{CompileError, RuleName};
use taskgate_ebpf::{
    abi::{DropReason, LinkId, Outcome, tables::RULE_EXEMPT},
    host::{AloneVerdict, HostFrame, decide_alone},
};
use taskgate_model::{Direction, Eni, Exempt, Model};

use super::{
    nearest::{Nearest, nearest},
    question::Question,
    unknown::unknown,
};
use crate::{frame::frame, host_image::HostImage};

/// The verdict of one gate, or of all gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The packet passes.
    Accept,
    /// The packet is dropped.
    Reject,
    /// No known rule allows the packet, but the files may lack a rule or exemption that does.
    Unknown,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Whether all gates pass the packet. [`Verdict::Reject`] if any gate denies it, else [`Verdict::Unknown`] if any gate's
    /// verdict is unknown.
    pub verdict: Verdict,
    /// The gates in the order of the packet's path.
    pub gates: Vec<GateVerdict>,
}

/// The verdict of one gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GateVerdict {
    /// The ENI's id.
    pub eni: String,
    /// The task's name.
    pub task: Option<String>,
    /// The direction of the ENI's rules that apply.
    #[serde(serialize_with = "direction")]
    pub direction: Direction,
    /// Whether the gate is on this host.
    pub here: bool,
    /// The gate's verdict.
    pub verdict: Verdict,
    /// `rule`, `exempt`, the drop reason, or what is unknown.
    pub reason: &'static str,
    /// The id of the group with the rule that allows the packet.
    pub group: Option<String>,
    /// That group's name.
    pub group_name: Option<String>,
    /// The rule that allows the packet.
    pub rule: Option<String>,
    /// If no rule allows the packet: the rule that missed by least.
    pub nearest: Option<Nearest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn direction<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction.as_str())
}

/// The gates of ENIs, here or elsewhere, over images in memory.
pub struct Explainer<'a> {
    model: &'a Model,
    hosts: Vec<Gated<'a>>,
}

/// An image and its gates. The gates of one image have no address in common, unlike ENIs of several VPCs, and have the same
/// exemptions.
struct Gated<'a> {
    /// The gated ENIs; an ENI's position is its link.
    enis: Vec<&'a Eni>,
    host: HostImage,
}

impl<'a> Gated<'a> {
    fn new(model: &'a Model, enis: Vec<&'a Eni>) -> Result<Self, CompileError> {
        let ids: HashSet<&str> = enis.iter().map(|eni| &*eni.id).collect();
        // `settings.exempt` applies to this host only.
        let here = enis.first().is_some_and(|eni| eni.binding.is_some());
        let exempt = if here { model.exempt() } else { Exempt::default() };
        let mut host = HostImage::new(model, &|eni| ids.contains(&*eni.id), &exempt)?;
        for (at, eni) in enis.iter().enumerate() {
            if let Some(slot) = host.writer.slot(&eni.id) {
                host.writer.add_link(link(at), slot)?;
            }
        }
        Ok(Self { enis, host })
    }
}

/// Whether two ENIs can share an image.
fn go_together(one: &Eni, other: &Eni) -> bool {
    let shared = one.addresses.iter().any(|address| other.addresses.contains(address));
    !shared && one.binding.is_some() == other.binding.is_some()
}

impl<'a> Explainer<'a> {
    /// Creates a gate for each of these ENIs with a known group, or possibly one.
    ///
    /// # Errors
    /// The configuration does not fit into an image.
    pub fn new(model: &'a Model, enis: impl IntoIterator<Item = &'a Eni>) -> Result<Self, CompileError> {
        let mut sets: Vec<Vec<&Eni>> = Vec::new();
        for eni in enis.into_iter().filter(|eni| has_gate(eni)) {
            if sets.iter().flatten().any(|gated| gated.id == eni.id) {
                continue;
            }
            match sets
                .iter_mut()
                .find(|set| set.iter().all(|gated| go_together(gated, eni)))
            {
                Some(set) => set.push(eni),
                None => sets.push(vec![eni]),
            }
        }
        let hosts = sets.into_iter().map(|set| Gated::new(model, set));
        Ok(Self {
            model,
            hosts: hosts.collect::<Result<_, _>>()?,
        })
    }

    /// Evaluates the packet at every gate on its path: egress at the source, ingress at the destination, even if the first
    /// gate denies it. ENIs without groups have no gate.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let bytes = frame(question.from.address, question.to.address, question.message);
        let way = [
            (Direction::Egress, question.from.eni),
            (Direction::Ingress, question.to.eni),
        ];
        let gates: Vec<GateVerdict> = way
            .into_iter()
            .filter_map(|(direction, eni)| Some((direction, eni?)))
            .filter_map(|(direction, eni)| self.gate(question, direction, eni, &bytes))
            .collect();
        let any = |verdict| gates.iter().any(|gate| gate.verdict == verdict);
        let verdict = [Verdict::Reject, Verdict::Unknown]
            .into_iter()
            .find(|verdict| any(*verdict));
        Explanation {
            verdict: verdict.unwrap_or(Verdict::Accept),
            gates,
        }
    }

    /// The verdict of an ENI's gate; `None` if it has no gate here.
    fn gate(&self, question: &Question<'_>, direction: Direction, eni: &Eni, bytes: &[u8]) -> Option<GateVerdict> {
        let mut places = self.hosts.iter().filter_map(|gated| {
            let at = gated.enis.iter().position(|gated| gated.id == eni.id)?;
            Some((gated, link(at)))
        });
        let (gated, link) = places.next()?;
        let (outcome, rule) = gated.judge(&HostFrame::new(bytes, link), direction);
        let no_rule = matches!(outcome, Outcome::Drop(DropReason::NoRule));
        let is_open = no_rule || !outcome.passes() && !eni.gate_known;
        let unknown = is_open.then(|| unknown(self.model, question, direction, eni)).flatten();
        let denied = no_rule && unknown.is_none();
        let nearest = denied.then(|| nearest(self.model, question, direction, eni));
        Some(GateVerdict {
            eni: eni.id.clone(),
            task: eni.task.clone(),
            direction,
            here: eni.binding.is_some(),
            verdict: match &unknown {
                Some(_) => Verdict::Unknown,
                None if outcome.passes() => Verdict::Accept,
                None => Verdict::Reject,
            },
            reason: unknown.map_or_else(|| outcome.name(), |unknown| unknown.reason()),
            group: rule.map(|rule| rule.group.clone()),
            group_name: rule.map(|rule| rule.group_name.clone()),
            rule: rule.map(|rule| rule.rule.clone()),
            nearest: nearest.flatten(),
        })
    }
}

impl Gated<'_> {
    /// Evaluates a frame without tracked connections: the outcome, and the rule that allows it.
    fn judge(&self, frame: &HostFrame<'_>, direction: Direction) -> (Outcome, Option<&RuleName>) {
        let AloneVerdict { outcome, conn } = decide_alone(self.host.writer.memory(), frame, direction);
        let number = conn.map(|conn| conn.rule()).filter(|number| *number != RULE_EXEMPT);
        (outcome, number.and_then(|number| self.host.rule_ids.name(number)))
    }
}

/// Whether an ENI has a gate, according to the files.
fn has_gate(eni: &Eni) -> bool {
    !eni.groups.is_empty() || !eni.groups_known
}

/// The link of the gate at a position.
fn link(at: usize) -> LinkId {
    LinkId::device(at as u32 + 1)
}
