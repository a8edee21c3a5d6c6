//! Combines the configuration with the added tasks, to which the rules for its files apply too.

use std::collections::{BTreeMap, BTreeSet};

use taskgate_config::{Problems, Sources};
use taskgate_model::Model;

use super::list::AddedTask;

/// The configuration of the files, to which tasks can be added.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    sources: Sources,
    /// The flow logs' interval in seconds, in place of the configured one.
    interval: Option<u32>,
}

impl Configuration {
    /// A configuration from files that are valid. `interval`: the flow logs' interval in seconds, in place of the
    /// configured one.
    pub(crate) fn new(sources: Sources, interval: Option<u32>) -> Self {
        Self { sources, interval }
    }

    /// The place at which the files name a task.
    pub(super) fn place(&self, task: &str) -> Option<String> {
        self.sources.task_place(task)
    }

    /// The model of the configuration with these tasks.
    ///
    /// # Errors
    /// The problems of a task, under its name, or of its combination with the files.
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
    /// The tasks that do not fit, with the reasons, by name in lower case. They are not in the model: their gates are
    /// closed.
    pub(crate) left_out: BTreeMap<String, String>,
}

/// Adds tasks to a configuration. `left_out`: the tasks that were not in force, which stay out if they do not fit.
///
/// # Errors
/// The problems, if a task that is in force does not fit.
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

/// The added tasks that any new configuration has to be combined with.
#[derive(Clone, Debug)]
pub(crate) struct Fitting {
    pub(super) added: BTreeMap<String, AddedTask>,
    /// The tasks that are not in force, by name in lower case.
    pub(super) left_out: BTreeSet<String>,
}

impl Fitting {
    /// The model that a configuration would bring into force.
    ///
    /// # Errors
    /// As for [`fit`].
    pub(crate) fn model(&self, configuration: &Configuration) -> Result<Model, Problems> {
        let fitted = fit(configuration, &self.added, |key| self.left_out.contains(key));
        fitted.map(|fitted| fitted.model)
    }
}
