//! What is desired beside the configuration: the tasks that were added while taskgate runs, which are held to the rules of the
//! files, and those that are isolated.

mod fit;
mod list;
mod new;

use std::{collections::BTreeMap, path::Path};

use taskgate_config::Problems;
use taskgate_model::Model;
use taskgate_net::eni::{EniError, attach_namespace, detach_namespace};
use tracing::{error, info, warn};

pub(crate) use fit::{Configuration, Fitted, Fitting};
pub(crate) use list::{AddedTask, TaskList, forget, key};
pub(crate) use new::{NewPlace, NewTask};

use super::{
    error::{ConfigurationError, RunError, chain},
    state::StateError,
};
use list::KeptList;

/// The configuration, and what was said of tasks beside it.
#[derive(Debug)]
pub(crate) struct Tasks {
    instance: String,
    configuration: Configuration,
    kept: KeptList,
    /// Added tasks that do not fit the configuration, and why not.
    left_out: BTreeMap<String, String>,
}

impl Tasks {
    /// What is kept of an instance, with its configuration. A task that does not fit this is left out: its gate is closed.
    pub(crate) fn open(instance: &str, configuration: Configuration) -> Result<(Self, Model), RunError> {
        let kept = KeptList::open(instance).map_err(ConfigurationError::from)?;
        let mut tasks = Self {
            instance: instance.to_owned(),
            configuration,
            kept,
            left_out: BTreeMap::new(),
        };
        let fitted = fit::fit(&tasks.configuration, &tasks.kept.list().added, |_| true);
        let Fitted { model, left_out } = fitted.map_err(ConfigurationError::from)?;
        tasks.leave_out(left_out);
        Ok((tasks, model))
    }

    /// Another configuration with the added tasks. One that was left out of the last one stays so where it does not fit.
    ///
    /// # Errors
    /// What is wrong with it, or between it and an added task that is in force.
    pub(crate) fn fit(&self, configuration: &Configuration) -> Result<Fitted, Problems> {
        let left_out = |key: &str| self.left_out.contains_key(key);
        fit::fit(configuration, &self.kept.list().added, left_out)
    }

    /// Goes on with another configuration, which is in force by now. `left_out`: the added tasks that do not fit, and why not.
    pub(crate) fn follow(&mut self, configuration: Configuration, left_out: BTreeMap<String, String>) {
        self.configuration = configuration;
        self.leave_out(left_out);
        self.hand_over();
    }

    fn leave_out(&mut self, left_out: BTreeMap<String, String>) {
        for (key, why) in &left_out {
            if self.left_out.get(key) != Some(why)
                && let Some(task) = self.kept.list().added.get(key)
            {
                let name = &task.name;
                error!(
                    task = name,
                    "added task `{name}` does not fit the configuration, and passes nothing: {why}"
                );
            }
        }
        self.left_out = left_out;
    }

    /// What is added to any configuration.
    pub(crate) fn fitting(&self) -> Fitting {
        Fitting {
            added: self.kept.list().added.clone(),
            left_out: self.left_out.keys().cloned().collect(),
        }
    }

    /// Whether a task is isolated.
    pub(crate) fn is_isolated(&self, name: &str) -> bool {
        self.kept.list().isolated.contains(&key(name))
    }

    /// The added tasks that are left out, and why.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        let added = &self.kept.list().added;
        let left_out = self.left_out.iter();
        left_out.filter_map(|(key, why)| Some((added.get(key)?.name.as_str(), why.as_str())))
    }

    /// An added task.
    pub(crate) fn added(&self, name: &str) -> Option<&AddedTask> {
        self.list().added.get(&key(name))
    }

    /// Why an added task is not in force.
    pub(crate) fn why_left_out(&self, name: &str) -> Option<&str> {
        self.left_out.get(&key(name)).map(String::as_str)
    }

    /// Says whether an added task is left out, and why.
    pub(crate) fn set_left_out(&mut self, name: &str, why: Option<String>) {
        match why {
            Some(why) => self.left_out.insert(key(name), why),
            None => self.left_out.remove(&key(name)),
        };
    }

    /// Where the files of the configuration name a task.
    pub(crate) fn place(&self, name: &str) -> Option<String> {
        self.configuration.place(name)
    }

    /// What is kept.
    pub(crate) fn list(&self) -> &TaskList {
        self.kept.list()
    }

    /// Changes what is kept. Where that fails nothing is changed.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut TaskList)) -> Result<(), StateError> {
        self.kept.change(change)
    }

    /// The task as it is kept.
    pub(crate) fn entry(&self, new: &NewTask) -> AddedTask {
        new.added(&self.instance)
    }

    /// The model in force without one of the added tasks, or with it as it is given.
    pub(crate) fn model(&self, name: &str, with: Option<&AddedTask>) -> Result<Model, Problems> {
        let without = key(name);
        let in_force = |key: &str| key != without && !self.left_out.contains_key(key);
        let added = self.kept.list().added.iter().filter(|(key, _)| in_force(key));
        self.configuration.with(added.map(|(_, task)| task).chain(with))
    }

    /// Has the files keep the tasks that they name by now as they were added.
    fn hand_over(&mut self) {
        let configuration = &self.configuration;
        let is_configured = |task: &AddedTask| configuration.place(&task.name).is_some();
        let added = &self.kept.list().added;
        let configured: Vec<String> = added
            .values()
            .filter(|task| is_configured(task))
            .map(|task| task.name.clone())
            .collect();
        let changed = self
            .kept
            .change(|list| list.added.retain(|_, task| !is_configured(task)));
        for name in configured {
            match &changed {
                Ok(()) => info!(task = name, "added task `{name}` stands in the configuration now"),
                Err(error) => warn!(task = name, "added task `{name}`: {}", chain(error)),
            }
        }
    }

    /// Gives a namespace that a task is added to by path or process its name.
    pub(crate) fn attach(&self, task: &AddedTask) -> Result<(), EniError> {
        if let (Some(path), Some(name)) = (&task.attached, task.namespace()) {
            attach_namespace(&self.instance, name, Path::new(path))?;
        }
        Ok(())
    }

    /// Takes that name away, if the ENI's end did not.
    pub(crate) fn detach(&self, task: &AddedTask) {
        if let (Some(_), Some(name)) = (&task.attached, task.namespace())
            && let Err(error) = detach_namespace(&self.instance, name)
        {
            warn!(task = task.name, "namespace `{name}` keeps its name: {}", chain(&error));
        }
    }
}
