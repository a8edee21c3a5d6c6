//! `taskgate flows`: stored flow records, filtered.

pub mod args;
pub mod input;
mod show;

use std::{collections::VecDeque, io};

use taskgate_analysis::flows::{FlowFilter, StoredRecord};

use self::args::{Flows, FlowsOutput};

use super::{
    error::{Error, Exit},
    output,
};

/// Reads the records, and shows those that fit, each as it is read; with `--last` once all are.
pub(super) fn run(flows: Flows) -> Result<Exit, Error> {
    let Flows {
        input,
        format,
        last,
        since,
        until,
        output: form,
        filters,
    } = flows;
    let filter = FlowFilter {
        terms: filters.0,
        since,
        until,
    };
    if form == FlowsOutput::Table {
        output::styled(&show::heading())?;
    }
    let shown = |record: &StoredRecord| match &form {
        FlowsOutput::Compact => show::compact(record),
        FlowsOutput::Table => show::row(record),
        FlowsOutput::Json => show::json(record),
        FlowsOutput::Words(format) => show::words(record, format),
    };
    let mut kept = VecDeque::new();
    let mut found = 0_u64;
    let passed = input::read(&input, format.as_ref(), &mut |record| {
        found += 1;
        if !filter.matches(&record) {
            return Ok(true);
        }
        let Some(most) = last else {
            return output::styled_piece(&shown(&record));
        };
        if kept.len() == most {
            kept.pop_front();
        }
        if most != 0 {
            kept.push_back(shown(&record));
        }
        Ok::<_, io::Error>(true)
    })?;
    for line in &kept {
        if !output::styled_piece(line).map_err(Error::Output)? {
            break;
        }
    }
    match passed.first {
        Some(first) if found == 0 => Err(Error::Input(first)),
        Some(first) => {
            let lines = passed.lines;
            output::stderr_line(format_args!(
                "warning: passed over, as they are no flow records: {lines}; the first is {first}"
            ));
            Ok(Exit::Ok)
        }
        None => Ok(Exit::Ok),
    }
}
