//! Retries: when failed and postponed operations are due again.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{BUSY, Links, State, Task};
use crate::guard::retry::Retry;

impl Links {
    /// Whether everything that is due was tried, and no task waits for the image's writer.
    pub(in crate::guard) fn is_settled(&self) -> bool {
        let closed = |task: &Task| matches!(task.state, State::Closed);
        !self.is_due() && !self.tasks.values().any(closed)
    }

    /// Whether [`Links::step`] has something to do.
    pub(in crate::guard) fn is_due(&self) -> bool {
        self.uplink_is_due || !self.due.is_empty()
    }

    /// Time until the next retry, if there is one.
    pub(in crate::guard) fn time_left(&self) -> Option<Duration> {
        let failed = self.tasks.values().filter_map(|task| match &task.state {
            State::Failed(retry) => Some(retry.at()),
            _ => None,
        });
        let at = failed
            .chain(self.uplink_retry.as_ref().map(Retry::at))
            .chain(self.later)
            .min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Queues every operation whose retry time has come.
    pub(in crate::guard) fn wake_up(&mut self) {
        let now = Instant::now();
        if self.uplink_retry.as_ref().is_some_and(|retry| retry.at() <= now) {
            self.uplink_is_due = true;
        }
        let later = self.later.take_if(|later| *later <= now).is_some();
        let is_due = |task: &Task| match &task.state {
            State::Failed(retry) => retry.at() <= now,
            State::Closed => later,
            _ => false,
        };
        let due: Vec<&String> = self
            .tasks
            .iter()
            .filter(|(_, task)| is_due(task))
            .map(|(eni, _)| eni)
            .collect();
        self.due.extend(due.into_iter().cloned());
        if later && !self.image.catch_up() {
            self.later = Some(now + BUSY);
        }
        if self.pending_grace {
            self.synchronize();
        }
    }

    /// Waits for a grace period on another thread, unless one is already waiting.
    fn synchronize(&mut self) {
        if self.settling.swap(true, Ordering::AcqRel) {
            self.later.get_or_insert_with(|| Instant::now() + BUSY);
            return;
        }
        self.pending_grace = false;
        let (image, settling) = (Arc::clone(&self.image), Arc::clone(&self.settling));
        let synchronize = move || {
            image.synchronize();
            settling.store(false, Ordering::Release);
        };
        if let Err(error) = thread::Builder::new().name("settle".to_owned()).spawn(synchronize) {
            warn!("no thread waits for a grace period, so this one does: {error}");
            self.image.synchronize();
            self.settling.store(false, Ordering::Release);
        }
    }
}
