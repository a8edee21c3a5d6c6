//! Lookup of tasks by name, ENI id or address, with suggestions for unknown names.

use std::net::IpAddr;

use taskgate_model::{
    Eni, Model, Peerings,
    near::{OFFERED, near},
};

use super::error::QuestionError;
use crate::display;

/// The result of a lookup.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    /// A known ENI, with any of its addresses.
    Eni(&'a Eni),
    /// An address, and the known ENI that has it; also `None` if several have it: [`settle`] selects one.
    Address(IpAddr, Option<&'a Eni>),
}

/// Looks up a task name, an ENI id or an address.
///
/// # Errors
/// [`QuestionError::NotFound`] with near matches.
pub(super) fn find<'a>(model: &'a Model, text: &str) -> Result<Who<'a>, QuestionError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        let mut enis = model.enis_by_address(address);
        let only = enis.next().filter(|_| enis.next().is_none());
        return Ok(Who::Address(address, only));
    }
    let by = |fits: &dyn Fn(&str) -> bool| {
        model
            .enis
            .iter()
            .find(|eni| eni.task.as_deref().is_some_and(fits) || fits(&eni.id))
    };
    by(&|name| name == text)
        .or_else(|| by(&|name| name.eq_ignore_ascii_case(text)))
        .map(Who::Eni)
        .ok_or_else(|| QuestionError::NotFound(not_found(model, text)))
}

/// Selects, of the ENIs in several VPCs with one address, the one that the other end reaches by it.
///
/// # Errors [`QuestionError::Senseless`] if that is undecidable.
pub(super) fn settle<'a>(model: &'a Model, this: Who<'a>, other: Who<'a>) -> Result<Who<'a>, QuestionError> {
    let Who::Address(address, None) = this else {
        return Ok(this);
    };
    let enis: Vec<&Eni> = model.enis_by_address(address).collect();
    let counted = match other {
        Who::Eni(eni) | Who::Address(_, Some(eni)) => Peerings::new(model).counted(eni, &enis),
        Who::Address(other, None) => {
            let beside = |eni: &&&Eni| model.enis_by_address(other).any(|other| other.vpc == eni.vpc);
            let near: Vec<&Eni> = enis.iter().filter(beside).copied().collect();
            if near.is_empty() { enis } else { near }
        }
    };
    match counted[..] {
        [] => Ok(this),
        [only] => Ok(Who::Address(address, Some(only))),
        _ => {
            let names = counted.iter().map(|eni| {
                let vpc = eni.vpc.as_deref().unwrap_or("no VPC");
                format!("`{}` in {vpc}", eni.display_name())
            });
            let names: Vec<String> = names.take(OFFERED).collect();
            let names = names.join(", ");
            Err(QuestionError::Senseless(format!(
                "{address} is an address of several ENIs: {names}; name the one that is meant"
            )))
        }
    }
}

fn not_found(model: &Model, text: &str) -> String {
    let nobody = format!("there is no task, no ENI and no address `{text}`");
    let group = model
        .groups
        .iter()
        .position(|group| group.id == text || group.name.eq_ignore_ascii_case(text));
    if let Some(group) = group {
        let members = model
            .enis
            .iter()
            .filter(|eni| eni.groups.iter().any(|of| of.0 == group));
        let members: Vec<&str> = members.map(Eni::display_name).collect();
        return if members.is_empty() {
            format!("`{text}` is a security group, and no known ENI has it; name a task, an ENI or an address")
        } else {
            format!("`{text}` is a security group; name one of its ENIs: {}", list(&members))
        };
    }
    let near = near(
        text,
        model
            .enis
            .iter()
            .flat_map(|eni| eni.task.as_deref().into_iter().chain([&*eni.id])),
    );
    if !near.is_empty() {
        return format!("{nobody}; did you mean {}?", display::either(&near));
    }
    let names: Vec<&str> = model.enis.iter().map(Eni::display_name).collect();
    if names.is_empty() {
        format!("{nobody}; the configuration has none")
    } else {
        format!("{nobody}; there are {}", list(&names))
    }
}

/// The first few names.
fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(OFFERED).map(|name| format!("`{name}`")).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(OFFERED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
