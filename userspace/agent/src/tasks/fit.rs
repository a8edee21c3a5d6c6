//! The configuration with the tasks that were added: the files' rules hold for these too.

use std::collections::{BTreeMap, BTreeSet};

use taskgate_config::{Problems, Sources};
use taskgate_model::Model;

use super::list::AddedTask;

/// A configuration as its files say it, to which tasks can be added.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    sources: Sources,
    /// The flow logs' interval in seconds, in place of the configured one.
    interval: Option<u32>,
}

impl Configuration {
    /// That of files which were found to be valid. `interval`: the flow logs' one in seconds, in place of the configured one.
    pub(crate) fn new(sources: Sources, interval: Option<u32>) -> Self {
        Self { sources, interval }
    }

    /// Where the files name a task.
    pub(super) fn place(&self, task: &str) -> Option<String> {
        self.sources.task_place(task)
    }

    /// The model with these tasks.
    ///
    /// # Errors
    /// What is wrong with one of them, under its name, or between it and the files.
    pub(super) fn with<'a>(&self, tasks: impl IntoIterator<Item = &'a AddedTask>) -> Result<Model, Problems> {
        let tasks = tasks.into_iter();
        let documents: Vec<(String, String)> = tasks.map(|task| (task.title(), task.document())).collect();
        let documents: Vec<(&str, &str)> = documents.iter().map(|(title, text)| (&**title, &**text)).collect();
        let mut model = self.sources.resolve_with(&documents)?.model;
        if let Some(interval) = self.interval {
            for log in &mut model.flow_logs {
                log.interval = interval;
            }
        }
        Ok(model)
    }
}

/// A model with added tasks.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) model: Model,
    /// The tasks that do not fit, and why not, by name in lower case. They are not in the model: their gates are closed.
    pub(crate) left_out: BTreeMap<String, String>,
}

/// Adds tasks to a configuration. `left_out`: those that were not in force; they stay out where they do not fit.
///
/// # Errors
/// A task that is in force does not fit.
pub(super) fn fit(
    configuration: &Configuration,
    added: &BTreeMap<String, AddedTask>,
    left_out: impl Fn(&str) -> bool,
) -> Result<Fitted, Problems> {
    let none = BTreeMap::new();
    if let Ok(model) = configuration.with(added.values()) {
        return Ok(Fitted { model, left_out: none });
    }
    let in_force = added.iter().filter(|(key, _)| !left_out(key));
    let mut fitting: Vec<&AddedTask> = in_force.map(|(_, task)| task).collect();
    let mut model = configuration.with(fitting.iter().copied())?;
    let mut out = none;
    for (key, task) in added.iter().filter(|(key, _)| left_out(key)) {
        fitting.push(task);
        match configuration.with(fitting.iter().copied()) {
            Ok(with_it) => model = with_it,
            Err(problems) => {
                fitting.pop();
                out.insert(key.clone(), problems.to_string());
            }
        }
    }
    Ok(Fitted { model, left_out: out })
}

/// What is added to any configuration that comes into force now.
#[derive(Clone, Debug)]
pub(crate) struct Fitting {
    pub(super) added: BTreeMap<String, AddedTask>,
    /// Those that are not in force, by name in lower case.
    pub(super) left_out: BTreeSet<String>,
}

impl Fitting {
    /// The model that a configuration would bring into force.
    ///
    /// # Errors
    /// As of [`fit`].
    pub(crate) fn model(&self, configuration: &Configuration) -> Result<Model, Problems> {
        let fitted = fit(configuration, &self.added, |key| self.left_out.contains(key));
        fitted.map(|fitted| fitted.model)
    }
}
