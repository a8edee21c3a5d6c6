//! The answer as text for people: the gates, one line that sums them up, and advice after a denial.

use std::{collections::HashSet, fmt::Write as _};

use taskgate_analysis::display;
use taskgate_analysis::explain::{End, Explanation, GateVerdict, Question, Verdict, advice, allows, unknown};
use taskgate_ebpf::abi::{DropReason, Outcome, PassReason};
use taskgate_model::{Direction, Eni, Model};

use crate::output::{BAD, GOOD, UNSURE, count};

/// The whole answer in colours, with a newline after each line.
pub(super) fn text(model: &Model, question: &Question<'_>, explanation: &Explanation) -> String {
    let Question { from, to, message } = question;
    let mut lines = vec![format!("{message} from {} to {}", end(from), end(to)), String::new()];
    for gate in &explanation.gates {
        lines.push(gate_line(model, question, gate));
    }
    lines.push(conclusion(question, explanation));
    let mut remedies: Vec<Vec<String>> = Vec::new();
    for gate in &explanation.gates {
        let remedy = remedy(model, question, gate);
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    lines.extend(remedies.into_iter().flatten());
    let mut text = String::new();
    for line in lines {
        // Writing to a string cannot fail.
        writeln!(text, "{line}").ok();
    }
    text
}

/// `web-1 (10.0.1.15)`, or the address alone.
fn end(end: &End<'_>) -> String {
    match end.eni {
        Some(eni) => format!("{} ({})", eni.display_name(), end.address),
        None => end.address.to_string(),
    }
}

fn eni_of<'a>(model: &'a Model, gate: &GateVerdict) -> Option<&'a Eni> {
    model.enis.iter().find(|eni| eni.id == gate.eni)
}

fn name(gate: &GateVerdict) -> &str {
    gate.task.as_deref().unwrap_or(&gate.eni)
}

fn paint(verdict: Verdict) -> String {
    let (style, word) = match verdict {
        Verdict::Accept => (GOOD, "ACCEPT"),
        Verdict::Reject => (BAD, "REJECT"),
        Verdict::Unknown => (UNSURE, "UNKNOWN"),
    };
    format!("{style}{word}{style:#}")
}

fn gate_line(model: &Model, question: &Question<'_>, gate: &GateVerdict) -> String {
    let place = match (&gate.task, gate.here) {
        (Some(_), true) => format!("{}, here", gate.eni),
        (Some(_), false) => format!("{}, not gated here", gate.eni),
        (None, true) => String::from("here"),
        (None, false) => String::from("not gated here"),
    };
    format!(
        "{:<7} {} ({place}): {} {}",
        gate.direction.as_str(),
        name(gate),
        paint(gate.verdict),
        why(model, question, gate),
    )
}

/// The reason for a gate's verdict.
fn why(model: &Model, question: &Question<'_>, gate: &GateVerdict) -> String {
    if let (Some(rule), Some(group), Some(id)) = (&gate.rule, &gate.group_name, &gate.group) {
        return format!(
            "by rule `{rule}` of group `{group}` ({id}){}",
            allowing(model, question, gate)
        );
    }
    let reason = gate.reason;
    if gate.verdict == Verdict::Unknown
        && let Some(eni) = eni_of(model, gate)
        && let Some(unknown) = unknown(model, question, gate.direction, eni)
    {
        return format!("{reason}: {}", unknown.why(model, question, gate.direction, eni));
    }
    let is = |outcome: Outcome| reason == outcome.name();
    if is(Outcome::Pass(PassReason::Exempt)) {
        return String::from("without a rule: it is exempt, the platform's own service");
    }
    if !is(Outcome::Drop(DropReason::NoRule)) {
        let more = if is(Outcome::Drop(DropReason::SpoofedSource)) {
            match gate.direction {
                Direction::Egress => ": the source is not the task's own address",
                Direction::Ingress => ": it comes from outside with the task's own address",
            }
        } else {
            ""
        };
        return format!("{reason}{more}");
    }
    let Some(eni) = eni_of(model, gate) else {
        return reason.to_owned();
    };
    let rules: HashSet<_> = eni
        .groups
        .iter()
        .flat_map(|&group| {
            model
                .group(group)
                .rules(gate.direction)
                .iter()
                .map(move |rule| (group, &rule.id))
        })
        .collect();
    let groups = display::groups_of(model, eni);
    let direction = gate.direction;
    if gate.nearest.is_none() && !rules.is_empty() {
        let family = question.family();
        return format!("{reason}: no {direction} rule of {groups} is for {family}");
    }
    match rules.len() {
        0 => format!("{reason}: {groups} has no {direction} rule"),
        1 => format!("{reason}: the one {direction} rule of {groups} does not allow it"),
        many => format!(
            "{reason}: none of the {} of {groups} allows it",
            count(many, &format!("{direction} rule"))
        ),
    }
}

/// The deciding rule, or, of a rule with several ports or peers, the part that matches.
fn allowing(model: &Model, question: &Question<'_>, gate: &GateVerdict) -> String {
    let group = model.groups.iter().find(|group| Some(&group.id) == gate.group.as_ref());
    let rules = group.map(|group| group.rules(gate.direction)).unwrap_or_default();
    let mut parts = rules
        .iter()
        .filter(|rule| Some(&rule.id) == gate.rule.as_ref() && allows(model, question, gate.direction, rule));
    parts.next().map_or_else(String::new, |rule| {
        format!(": {}", display::rule(model, gate.direction, rule))
    })
}

/// One line that sums up the gates' verdicts.
fn conclusion(question: &Question<'_>, explanation: &Explanation) -> String {
    let (from, to, message) = (question.from.name(), question.to.name(), question.message);
    let is = |direction| {
        let mut gates = explanation.gates.iter();
        gates.any(|gate| gate.direction == direction && gate.verdict == explanation.verdict)
    };
    let (egress, ingress) = (is(Direction::Egress), is(Direction::Ingress));
    let known = (question.from.eni.is_some(), question.to.eni.is_some());
    let says = match (explanation.verdict, egress, ingress) {
        // Nothing can be said about an end that is in no file.
        (Verdict::Accept, ..) => match known {
            (true, false) => format!("{from} may send {message} to {to}, and replies need no rule"),
            (false, true) => format!("{to} accepts {message} from {from}, and replies need no rule"),
            _ => format!("{message} passes from {from} to {to}, and replies need no rule"),
        },
        (Verdict::Reject, true, false) => format!("{from} may not send {message} to {to}"),
        (Verdict::Reject, false, _) => format!("{to} does not accept {message} from {from}"),
        (Verdict::Reject, true, true) => format!("{from} may not send {message} to {to}, and {to} would not accept it"),
        (Verdict::Unknown, true, false) => format!("the files do not say whether {from} may send {message} to {to}"),
        (Verdict::Unknown, false, _) => format!("the files do not say whether {to} accepts {message} from {from}"),
        (Verdict::Unknown, true, true) => {
            format!("the files do not say whether {from} may send {message} to {to}, nor whether {to} would accept it")
        }
    };
    format!("{}: {says}", paint(explanation.verdict))
}

/// The advice after a denial for want of a rule, or after an unknown verdict.
fn remedy(model: &Model, question: &Question<'_>, gate: &GateVerdict) -> Vec<String> {
    let mut lines = Vec::new();
    if gate.verdict == Verdict::Unknown
        && let Some(eni) = eni_of(model, gate)
        && let Some(unknown) = unknown(model, question, gate.direction, eni)
    {
        lines.push(String::new());
        lines.push(unknown.remedy(model, question, gate.direction, eni));
    }
    if gate.reason != Outcome::Drop(DropReason::NoRule).name() {
        return lines;
    }
    let direction = gate.direction;
    lines.push(String::new());
    if let Some(nearest) = &gate.nearest {
        lines.push(format!(
            "nearest {direction} rule: `{}` of group `{}` allows {}; {}",
            nearest.rule, nearest.group_name, nearest.allows, nearest.message
        ));
    }
    let advice = eni_of(model, gate).and_then(|eni| advice(model, question, direction, eni, gate.nearest.as_ref()));
    if let Some(advice) = advice {
        lines.push(format!(
            "to allow it, add to the {direction} rules of {}: {}{}",
            advice.group, advice.says, advice.then
        ));
        lines.extend(advice.how.map(|how| format!("  {how}")));
    }
    lines
}
