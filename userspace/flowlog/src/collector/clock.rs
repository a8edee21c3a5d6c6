//! The kernel's ticks as times of day.

use taskgate_tables::FlowTables;

use super::CollectError;

/// The kernel's clock and the wall clock at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TickClock {
    ticks: u32,
    per_second: u32,
    millis: u64,
}

impl TickClock {
    /// Reads both clocks, and returns the ticks.
    pub(super) fn read(&mut self, tables: &mut dyn FlowTables) -> Result<u32, CollectError> {
        *self = Self {
            ticks: tables.now().map_err(CollectError::Clock)?,
            per_second: tables.ticks_per_second(),
            millis: tables.unix_millis(),
        };
        Ok(self.ticks)
    }

    /// The time of a tick in milliseconds since the Unix epoch; 0 if no clock was read yet.
    pub(super) fn millis(&self, tick: u32) -> u64 {
        let ahead = i64::from(tick.wrapping_sub(self.ticks).cast_signed());
        let Some(millis) = (ahead * 1000).checked_div(self.per_second.into()) else {
            return 0;
        };
        self.millis.saturating_add_signed(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_count_from_the_moment_at_which_both_clocks_were_read() {
        let clock = TickClock {
            ticks: 5,
            per_second: 250,
            millis: 1_767_225_600_000,
        };
        for (tick, millis) in [
            (5, 1_767_225_600_000),
            (4, 1_767_225_599_996),
            (255, 1_767_225_601_000),
            // The ticks wrapped a moment ago.
            (u32::MAX - 4, 1_767_225_599_960),
        ] {
            assert_eq!(clock.millis(tick), millis, "{tick}");
        }
        assert_eq!(TickClock::default().millis(7), 0);
    }
}
