//! When windows end. Times are Unix seconds.

use std::time::Duration;

use taskgate_model::FlowLog;

/// The longest capture window in seconds, whatever the flow logs' intervals are: an entry is removed only after a window in which
/// it carried nothing, and a table full of entries that are over would deny new connections.
pub const LONGEST_WINDOW: u32 = 60;

/// The bounds of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `start`.
    pub start: u64,
    /// `end`: the start of the next one.
    pub end: u64,
}

/// The start of the window of `interval` seconds that contains `now`.
pub const fn aligned(now: u64, interval: u32) -> u64 {
    now - now % interval as u64
}

/// The instants at which capture windows end: every multiple of every flow log's interval, and of [`LONGEST_WINDOW`].
/// So each flow log's windows are whole numbers of capture windows, however intervals are combined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    intervals: Vec<u32>,
}

impl Schedule {
    pub(super) fn new(logs: &[FlowLog]) -> Self {
        let mut intervals: Vec<_> = logs
            .iter()
            .map(|log| log.interval.max(1))
            .chain([LONGEST_WINDOW])
            .collect();
        intervals.sort_unstable();
        intervals.dedup();
        Self { intervals }
    }

    /// The last instant at or before `now`.
    pub(super) fn at_or_before(&self, now: u64) -> u64 {
        self.intervals
            .iter()
            .map(|interval| aligned(now, *interval))
            .max()
            .unwrap_or(now)
    }

    /// The first instant after `start`.
    pub(super) fn after(&self, start: u64) -> u64 {
        let next = |interval: &u32| aligned(start, *interval) + u64::from(*interval);
        self.intervals
            .iter()
            .map(next)
            .min()
            .unwrap_or(start + u64::from(LONGEST_WINDOW))
    }

    /// Where the window that began at `start` ends if it is closed at `now`, and where the next one begins.
    ///
    /// A window that is closed late ends at the last instant that has passed. A window that is closed a moment early, as by a timer,
    /// ends at its own instant. If the clock was set back, the next window begins in the clock's new time.
    pub(super) fn close(&self, start: u64, now: u64) -> (u64, u64) {
        let end = self.after(start).max(self.at_or_before(now));
        let set_back = now + u64::from(LONGEST_WINDOW) < end;
        (end, if set_back { self.at_or_before(now) } else { end })
    }

    /// How long until the window that began at `start` is to be closed.
    pub(super) fn left(&self, start: u64, now: Duration) -> Duration {
        let end = Duration::from_secs(self.after(start));
        end.saturating_sub(now).min(Duration::from_secs(LONGEST_WINDOW.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(intervals: &[u32]) -> Schedule {
        let logs: Vec<_> = intervals
            .iter()
            .map(|interval| FlowLog {
                interval: *interval,
                ..FlowLog::default()
            })
            .collect();
        Schedule::new(&logs)
    }

    #[test]
    fn windows_end_at_every_multiple_of_every_interval() {
        for (intervals, start, want) in [
            (&[60][..], 600, [660, 720, 780, 840]),
            (&[10], 600, [610, 620, 630, 640]),
            (&[600], 600, [660, 720, 780, 840]),
            (&[90], 540, [600, 630, 660, 720]),
            (&[7, 60], 600, [602, 609, 616, 623]),
            (&[45, 60], 0, [45, 60, 90, 120]),
            (&[1], 5, [6, 7, 8, 9]),
        ] {
            let schedule = schedule(intervals);
            let mut at = start;
            let ends = [(); 4].map(|()| {
                at = schedule.after(at);
                at
            });
            assert_eq!(ends, want, "{intervals:?}");
        }
    }

    #[test]
    fn a_window_closed_at_the_wrong_time_still_ends_somewhere_sound() {
        let schedule = schedule(&[60]);
        for (case, start, now, want) in [
            ("on time", 600, 660, (660, 660)),
            ("a moment early", 600, 659, (660, 660)),
            ("a little late", 600, 671, (660, 660)),
            ("two windows late", 600, 790, (780, 780)),
            ("from a start off the grid", 633, 660, (660, 660)),
            ("the clock was set back an hour", 7200, 3661, (7260, 3660)),
        ] {
            assert_eq!(schedule.close(start, now), want, "{case}");
        }
    }

    #[test]
    fn the_wait_is_never_longer_than_a_window() {
        let schedule = schedule(&[600]);
        for (start, now, want) in [
            (600, 600.0, 60.0),
            (600, 659.75, 0.25),
            (600, 700.0, 0.0),
            (600, 100.0, 60.0),
        ] {
            assert_eq!(
                schedule.left(start, Duration::from_secs_f64(now)),
                Duration::from_secs_f64(want)
            );
        }
    }
}
