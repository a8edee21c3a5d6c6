//! Adds or removes a single task in the generation in force, by changing its rows and without compilation, where
//! another task has the same groups.

use std::{collections::HashMap, sync::Arc};

use taskgate_compiler::{EniLimits, LiveChange};
use taskgate_model::{Model, OnRuleRemoval};
use tracing::debug;

use crate::{
    apply::Daemon,
    error::{AttachError, ConfigurationError, RunError},
    sizes,
};

/// The slots of the gated ENIs.
type GatedSlots = HashMap<String, u16>;

impl Daemon {
    /// Applies the difference between the model in force and another one to the image, if it consists of a single task
    /// that comes or goes and no new policy is needed. Returns the slots of all gated ENIs then.
    pub(crate) fn change_one(&mut self, model: &Model) -> Result<Option<GatedSlots>, ConfigurationError> {
        let changed = match LiveChange::between(self.model(), model) {
            Some(LiveChange::Added(_)) => self.stage_one(model)?,
            // Other tasks' connections with the removed task have to be judged anew, which needs a new generation.
            Some(LiveChange::Removed(_)) if model.settings.on_rule_removal == OnRuleRemoval::Cut => false,
            Some(LiveChange::Removed(eni)) => self.image.writer().remove_eni(model, eni),
            None => false,
        };
        Ok(changed.then(|| {
            let writer = self.image.writer();
            let slot = |eni: &taskgate_model::Eni| Some((eni.id.clone(), writer.slot(&eni.id)?));
            model.gated().filter_map(slot).collect()
        }))
    }

    fn stage_one(&mut self, model: &Model) -> Result<bool, ConfigurationError> {
        let Some(LiveChange::Added(eni)) = LiveChange::between(self.model(), model) else {
            return Ok(false);
        };
        let limits = EniLimits {
            isolated: self.tasks.is_isolated(eni.display_name()),
            ..sizes::gate(model)
        };
        let image = Arc::clone(&self.image);
        let mut writer = image.writer();
        let generation = writer.generation();
        let staged = match writer.stage_eni(model, eni, limits, model.exempt().dhcp) {
            Ok(Some(staged)) => staged,
            Ok(None) => return Ok(false),
            // A new generation may have room that removed tasks still occupy in this one.
            Err(error) => {
                debug!("a new generation for one task: {error}");
                return Ok(false);
            }
        };
        // The state file has to be written before any entry can carry the new number.
        let slots = staged.writer().slots();
        self.state.update(generation, slots, &self.rule_ids);
        self.file.write(&self.state)?;
        staged.commit();
        Ok(true)
    }

    /// Updates records and gates for a model that [`Self::change_one`] brought into the image.
    pub(crate) async fn follow_one(
        &mut self,
        model: Arc<Model>,
        slots: &GatedSlots,
    ) -> Result<Vec<AttachError>, RunError> {
        let fewer = model.enis.len() < self.model().enis.len();
        self.bind_records(&model, slots);
        let wrong = self.follow(model, slots).await?;
        if fewer {
            // Frees the room of the removed task. Adding a task does not wait for this.
            self.image.synchronize();
        }
        self.share(false);
        Ok(wrong)
    }
}
