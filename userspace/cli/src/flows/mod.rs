//! `taskgate flows`: stored flow records, filtered.

pub mod args;
pub mod input;
mod show;

use std::{collections::VecDeque, io};

use taskgate_analysis::flows::{FlowFilter, StoredRecord};

use self::args::{FlowsArgs, FlowsOutput};

use super::{
    error::{Error, Exit},
    output,
};

/// What is to be written, in pieces.
struct Out {
    text: String,
    /// Bytes beyond which they are written.
    most: usize,
}

impl Out {
    /// Adds some text. Gives whether anybody reads on.
    fn push(&mut self, text: &str) -> io::Result<bool> {
        self.text.push_str(text);
        if self.text.len() > self.most {
            self.flush()
        } else {
            Ok(true)
        }
    }

    fn flush(&mut self) -> io::Result<bool> {
        let written = output::styled_piece(&self.text);
        self.text.clear();
        written
    }
}

/// Reads the records, and shows those that fit, each as it is read; with `--last` once all are.
pub(super) fn run(flows: FlowsArgs) -> Result<Exit, Error> {
    let FlowsArgs {
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
    // Who follows a file through standard input sees each record as it comes.
    let at_once = input.iter().any(|path| path.as_os_str() == "-");
    let mut out = Out {
        text: String::new(),
        most: if at_once { 0 } else { 1 << 16 },
    };
    if form == FlowsOutput::Table {
        out.push(&show::heading()).map_err(Error::Output)?;
    }
    let shown = |record: &StoredRecord| match &form {
        FlowsOutput::Compact => show::compact(record),
        FlowsOutput::Table => show::row(record),
        FlowsOutput::Json => show::json(record),
        FlowsOutput::Words(format) => show::words(record, format),
    };
    let mut kept = VecDeque::new();
    let mut found = 0_u64;
    let read = input::read(&input, format.as_ref(), &mut |record| {
        found += 1;
        if !filter.matches(&record) {
            return Ok(true);
        }
        let Some(most) = last else {
            return out.push(&shown(&record));
        };
        if kept.len() == most {
            kept.pop_front();
        }
        if most != 0 {
            kept.push_back(shown(&record));
        }
        Ok::<_, io::Error>(true)
    });
    for line in &kept {
        out.push(line).map_err(Error::Output)?;
    }
    out.flush().map_err(Error::Output)?;
    let passed = read?;
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
