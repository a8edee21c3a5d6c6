//! Signals that a thread does not hear for a while.

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Holds all signals off the calling thread until it is dropped; those for the process go to another thread, or wait. The
/// verifier gives up when one is pending, and so do the probes of what the kernel can do, which would then say that it cannot.
#[derive(Debug)]
pub(super) struct SignalsHeld(Option<SigSet>);

impl SignalsHeld {
    pub(super) fn new() -> Self {
        let mut before = SigSet::empty();
        let held = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before));
        if let Err(error) = held {
            tracing::debug!("signals are heard while programs are loaded: {error}");
        }
        Self(held.is_ok().then_some(before))
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = before.thread_set_mask()
        {
            tracing::error!("signals are held off a thread for good: {error}");
        }
    }
}
