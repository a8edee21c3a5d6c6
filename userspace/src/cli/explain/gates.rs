//! The gates on the way, judged by the code that the kernel runs.

use serde::{Serialize, Serializer};
use taskgate_ebpf::{
    abi::{self, LinkId, Outcome, Reason, tables::RULE_EXEMPT},
    host::{HostFrame, HostTables, decide},
};

use super::{
    frame::frame,
    nearest::{Nearest, nearest},
    question::Question,
};
use crate::{
    cli::host::Host,
    compile::{CompileError, RuleName},
    model::{Direction, Eni, Model},
};

/// What a gate, or all of them, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The packet passes.
    Accept,
    /// It is dropped.
    Reject,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// Whether all gates let the packet through.
    pub verdict: Verdict,
    /// The gates in the order in which the packet meets them.
    pub gates: Vec<GateVerdict>,
}

/// What one gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GateVerdict {
    /// The ENI's id.
    pub eni: String,
    /// The task's name.
    pub task: Option<String>,
    /// Which of the ENI's rules are asked.
    #[serde(serialize_with = "direction")]
    pub direction: Direction,
    /// Whether the gate is on this host.
    pub here: bool,
    /// Whether it lets the packet through.
    pub verdict: Verdict,
    /// `rule`, `exempt`, or why it is dropped.
    pub reason: &'static str,
    /// The id of the group whose rule allows it.
    pub group: Option<String>,
    /// That group's name.
    pub group_name: Option<String>,
    /// The rule that allows it.
    pub rule: Option<String>,
    /// Where no rule allows it: the one that missed by least.
    pub nearest: Option<Nearest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn direction<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction.as_str())
}

/// Puts the packet to every gate on its way: egress where it begins, ingress where it ends, also when the first one
/// denies it. ENIs without a group have no gate.
///
/// # Errors
/// The configuration does not fit into an image.
pub fn explain(model: &Model, question: &Question<'_>) -> Result<Explanation, CompileError> {
    let way = [
        (Direction::Egress, question.from.eni),
        (Direction::Ingress, question.to.eni),
    ];
    let gated: Vec<(Direction, &Eni)> = way
        .into_iter()
        .filter_map(|(direction, eni)| Some((direction, eni.filter(|eni| !eni.groups.is_empty())?)))
        .collect();
    let bench = Bench::new(model, &gated)?;
    let bytes = frame(question.from.address, question.to.address, question.message);
    let gates: Vec<GateVerdict> = gated
        .into_iter()
        .enumerate()
        .map(|(at, (direction, eni))| {
            let (outcome, rule) = bench.judge(at, direction, &bytes);
            gate(model, question, direction, eni, outcome, rule)
        })
        .collect();
    let passed = gates.iter().all(|gate| gate.verdict == Verdict::Accept);
    Ok(Explanation {
        verdict: if passed { Verdict::Accept } else { Verdict::Reject },
        gates,
    })
}

/// The gates of a few ENIs, with links of their own.
struct Bench {
    host: Host,
}

impl Bench {
    fn new(model: &Model, gated: &[(Direction, &Eni)]) -> Result<Self, CompileError> {
        let mut host = Host::new(model, &|eni| gated.iter().any(|(_, gated)| gated.id == eni.id))?;
        for (at, (_, eni)) in gated.iter().enumerate() {
            if let Some(slot) = host.writer.slot(&eni.id) {
                host.writer.add_link(link(at), slot)?;
            }
        }
        Ok(Self { host })
    }

    /// Puts a frame to the gate at a link. Nothing is tracked there yet.
    fn judge(&self, at: usize, direction: Direction, bytes: &[u8]) -> (Outcome, Option<&RuleName>) {
        const ROOM: usize = 1;
        let tables = HostTables::new(self.host.writer.memory(), ROOM);
        let direction = match direction {
            Direction::Egress => abi::Direction::Egress,
            Direction::Ingress => abi::Direction::Ingress,
        };
        let outcome = decide(&tables, &HostFrame::new(bytes, link(at)), direction);
        let tracked = tables.conns_v4().into_values().chain(tables.conns_v6().into_values());
        let mut numbers = tracked.map(|conn| conn.by().0).filter(|number| *number != RULE_EXEMPT);
        (outcome, numbers.next().and_then(|number| self.host.book.name(number)))
    }
}

/// The link that carries the gate at a place of the way.
fn link(at: usize) -> LinkId {
    LinkId::device(at as u32 + 1)
}

fn gate(
    model: &Model,
    question: &Question<'_>,
    direction: Direction,
    eni: &Eni,
    outcome: Outcome,
    rule: Option<&RuleName>,
) -> GateVerdict {
    let denied = matches!(outcome, Outcome::Drop(Reason::NoRule));
    GateVerdict {
        eni: eni.id.clone(),
        task: eni.task.clone(),
        direction,
        here: eni.binding.is_some(),
        verdict: if outcome.passes() {
            Verdict::Accept
        } else {
            Verdict::Reject
        },
        reason: outcome.name(),
        group: rule.map(|rule| rule.group.clone()),
        group_name: rule.map(|rule| rule.group_name.clone()),
        rule: rule.map(|rule| rule.rule.clone()),
        nearest: denied.then(|| nearest(model, question, direction, eni)).flatten(),
    }
}
