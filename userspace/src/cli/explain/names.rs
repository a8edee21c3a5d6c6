//! Who is meant: a task's name, an ENI's id or an address; and who may have been meant instead.

use std::net::IpAddr;

use crate::{
    cli::{Error, words},
    model::{Eni, Model},
    near::{OFFERED, near},
};

/// Who `text` names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    /// A known ENI, with whichever of its addresses fits.
    Eni(&'a Eni),
    /// An address, and the known ENI that has it.
    Address(IpAddr, Option<&'a Eni>),
}

/// Finds who is meant.
///
/// # Errors
/// [`Error::NotFound`] with near matches.
pub(super) fn find<'a>(model: &'a Model, text: &str) -> Result<Who<'a>, Error> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(Who::Address(address, model.eni_by_address(address)));
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
        .ok_or_else(|| Error::NotFound(not_found(model, text)))
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
        return format!("{nobody}; did you mean {}?", words::either(&near));
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
