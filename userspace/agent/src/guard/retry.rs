//! Retries of failed operations, until they succeed.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Schedule of the retries of a failed operation: soon at first, then with doubled delays up to a limit.
#[derive(Debug)]
pub(super) struct Retry {
    at: Instant,
    delay: Duration,
    /// The last error. The same error is logged once.
    said: String,
}

impl Retry {
    /// The next retry after a failure, and whether the error is new and has to be logged.
    pub(super) fn after(before: Option<Self>, error: String) -> (Self, bool) {
        let (delay, is_new) = before.map_or((FIRST, true), |before| {
            ((2 * before.delay).min(LONGEST), before.said != error)
        });
        let retry = Self {
            at: Instant::now() + delay,
            delay,
            said: error,
        };
        (retry, is_new)
    }

    /// The time of the next attempt.
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_for_ever_and_told_once() {
        let (mut retry, is_new) = Retry::after(None, "no".to_owned());
        assert!(is_new && retry.delay == FIRST);
        for _ in 0..10 {
            let again = Retry::after(Some(retry), "no".to_owned());
            assert!(!again.1);
            retry = again.0;
        }
        assert_eq!(retry.delay, LONGEST);
        assert!(Retry::after(Some(retry), "still no".to_owned()).1);
    }
}
