//! Blocks a thread's signals for a while.

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Blocks all signals of the calling thread until this is dropped; signals to the process go to another thread, or stay pending.
/// A pending signal makes the verifier give up. Probes of kernel features would then report a feature as missing.
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
