//! The output of a running program, line for line, to be waited for.

use std::{
    io::{ErrorKind, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Lines as they come.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
    /// The last line has no end.
    cut: bool,
}

impl Lines {
    /// Reads `from` to its end, on a separate thread. Lines that were written in one call become visible together.
    pub fn of(mut from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        thread::spawn(move || {
            let mut pending = Vec::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = match from.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    length => length.unwrap_or_default(),
                };
                pending.extend_from_slice(&buffer[..length]);
                let ended = length == 0;
                let cut = ended && !pending.is_empty();
                let complete = match pending.iter().rposition(|byte| *byte == b'\n') {
                    _ if ended => pending.len(),
                    Some(last) => last + 1,
                    None => 0,
                };
                let text = String::from_utf8_lossy(&pending[..complete]).into_owned();
                pending.drain(..complete);
                let mut state = shared.lock();
                state.lines.extend(text.lines().map(str::to_owned));
                state.ended = ended;
                state.cut = cut;
                drop(state);
                shared.changed.notify_all();
                if ended {
                    return;
                }
            }
        });
        lines
    }

    /// The number of lines.
    pub fn len(&self) -> usize {
        self.0.lock().lines.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn from(&self, start: usize) -> Vec<String> {
        self.0.lock().lines.get(start..).unwrap_or_default().to_vec()
    }

    /// Waits until `wanted` returns a value for the lines from `start` on. Fails when the output has ended, or after
    /// `patience`.
    pub fn wait<R>(
        &self,
        start: usize,
        patience: Duration,
        mut wanted: impl FnMut(&[String]) -> Result<Option<R>>,
    ) -> Result<R> {
        let end = Instant::now() + patience;
        let mut state = self.0.lock();
        loop {
            let lines = state.lines.get(start..).unwrap_or_default();
            if let Some(found) = wanted(lines)? {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended {
                bail!("the program ended; it printed:\n{}", lines.join("\n"));
            }
            if left.is_zero() {
                bail!("waited {patience:?} in vain; it printed:\n{}", lines.join("\n"));
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Drops the last line if it is incomplete.
    pub fn drop_cut(&self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.cut) {
            state.lines.pop();
        }
    }

    pub fn wait_end(&self, patience: Duration) -> Result<()> {
        let (state, waited) = self
            .0
            .changed
            .wait_timeout_while(self.0.lock(), patience, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && !state.ended {
            bail!("the program has not ended within {patience:?}");
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_kept_and_waited_for() -> Result<()> {
        let lines = Lines::of(&b"one\ntwo\nthree"[..]);
        let third = lines.wait(1, SHORT, |lines| {
            Ok(lines.iter().find(|line| line.ends_with("ree")).cloned())
        })?;
        assert_eq!(third, "three");
        lines.wait_end(SHORT)?;
        assert_eq!(lines.from(1), ["two", "three"]);
        lines.drop_cut();
        lines.drop_cut();
        assert_eq!(lines.from(1), ["two"]);
        Ok(())
    }

    #[test]
    fn waiting_for_what_never_comes_says_what_came() {
        let lines = Lines::of(&b"one\ntwo\n"[..]);
        let error = lines.wait(0, SHORT, |_| Ok(None::<()>)).unwrap_err().to_string();
        assert!(error.contains("ended") && error.contains("one\ntwo"), "{error}");
    }
}
