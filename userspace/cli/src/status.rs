//! `taskgate status` and `taskgate task list`: show the daemon's status and its tasks.

use std::fmt::Write as _;

use taskgate_agent::left_standing;
use taskgate_api::{ApplyOutcome, DaemonStatus, DestinationStatus, Deviation, TableFill, TaskState, TaskStatus};

use super::{
    args::Output,
    client::{ClientError, ControlClient},
    error::{Error, Exit},
    output::{self, BAD, GOOD, UNSURE},
};

/// Shows the status that the daemon reports. If no daemon runs or answers, shows whether its gates are attached.
pub(super) fn run(client: &ControlClient, instance: &str, form: Output) -> Result<Exit, Error> {
    let status = match client.get("/v1/status") {
        Err(ClientError::NotRunning { .. }) if let Some(left) = left_standing(instance)? => left,
        Err(ref error @ ClientError::Silent { ref process, .. }) => {
            output::stderr_line(format_args!("error: {error}"));
            DaemonStatus {
                instance: instance.to_owned(),
                running: true,
                pid: process.as_ref().map(|process| process.pid),
                ..left_standing(instance)?.unwrap_or_default()
            }
        }
        status => status?,
    };
    match form {
        Output::Json => output::json(&status)?,
        Output::Text => output::styled(&text(&status))?,
    }
    Ok(if status.healthy { Exit::Ok } else { Exit::Unhealthy })
}

/// Shows the tasks.
pub(super) fn tasks(client: &ControlClient, form: Output) -> Result<Exit, Error> {
    let tasks: Vec<TaskStatus> = client.get("/v1/tasks")?;
    match form {
        Output::Json => output::json(&tasks)?,
        Output::Text => output::styled(&table(&tasks))?,
    }
    Ok(Exit::Ok)
}

fn text(status: &DaemonStatus) -> String {
    let DaemonStatus {
        instance,
        kernel,
        generation,
        ..
    } = status;
    if !status.running {
        return format!(
            "taskgate `{instance}` {BAD}does not run{BAD:#}; gates that it left stand, and judge by generation {generation}. \
             `taskgate run` goes on with them\n"
        );
    }
    if status.version.is_none() {
        let gates = match generation {
            0 => String::from("no gate of it is seen from here"),
            generation => format!("its gates stand, and judge by generation {generation}"),
        };
        return format!("taskgate `{instance}` {BAD}does not answer{BAD:#}; {gates}\n");
    }
    let mut text = String::new();
    let (style, word) = if status.healthy {
        (GOOD, "healthy")
    } else {
        (BAD, "not healthy")
    };
    // Writing to a string cannot fail.
    let mut line = |line: String| writeln!(text, "{line}").ok();
    line(format!(
        "taskgate `{instance}` {}: {style}{word}{style:#}, pid {}, up {}, Linux {kernel}",
        status.version.as_deref().unwrap_or("?"),
        status.pid.unwrap_or_default(),
        duration(status.uptime.unwrap_or_default()),
    ));
    line(format!(
        "generation {generation} of `{}`; new links are gated by {}",
        status.config.as_deref().unwrap_or("?"),
        status.attach
    ));
    line(format!(
        "tracked connections {}, denied flows {}; packets without a record: {} passed, {} denied",
        fill(&status.tables.connections),
        fill(&status.tables.denials),
        status.losses.passed,
        status.losses.denied
    ));
    for destination in &status.destinations {
        line(records(destination));
    }
    if let Some(last) = status
        .last_apply
        .as_ref()
        .filter(|last| last.result == ApplyOutcome::Refused)
    {
        line(format!(
            "{BAD}the last apply, of `{}`, was refused{BAD:#}: {}",
            last.config,
            last.detail.as_deref().unwrap_or_default()
        ));
        for error in &last.errors {
            line(format!(
                "  {}:{}:{}: {}; {}",
                error.file, error.line, error.column, error.message, error.hint
            ));
        }
    }
    for not_gated in &status.not_gated {
        line(format!("{BAD}not gated{BAD:#}: {}", not_gated.message));
    }
    for deviation in &status.drift {
        line(drift(deviation));
    }
    text + "\n" + &table(&status.tasks)
}

fn records(destination: &DestinationStatus) -> String {
    let DestinationStatus {
        destination: name,
        records,
        waiting,
        dropped,
        lost,
        failure,
    } = destination;
    let mut text = format!("flow records to {name}: {records} written, {waiting} bytes wait");
    if *dropped != 0 || *lost != 0 {
        write!(
            text,
            "; {BAD}lost{BAD:#}: {dropped} records, and those of {lost} packets"
        )
        .ok();
    }
    if let Some(failure) = failure {
        // Writing to a string cannot fail.
        write!(text, "; {BAD}not written{BAD:#}: {failure}").ok();
    }
    text
}

fn drift(deviation: &Deviation) -> String {
    match deviation.repaired {
        None => format!("{BAD}drift{BAD:#}: {}", deviation.message),
        Some(_) => format!("{UNSURE}was put right{UNSURE:#}: {}", deviation.message),
    }
}

/// A table whose columns are as wide as their widest cell.
fn table(tasks: &[TaskStatus]) -> String {
    const HEAD: [&str; 6] = ["TASK", "STATE", "LINK", "GATES", "CONNECTIONS", "DENIALS"];
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(tasks.iter().map(row));
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(task: &TaskStatus) -> [String; 6] {
    let state = match task.state {
        TaskState::Gated => "gated",
        TaskState::Waiting => "waiting for its link",
        TaskState::Closed => "closed",
        TaskState::Failed => "failed",
    };
    let state = match (task.added, task.isolated) {
        (false, false) => state.to_owned(),
        (true, false) => format!("{state}, added"),
        (false, true) => format!("{state}, isolated"),
        (true, true) => format!("{state}, added, isolated"),
    };
    let link = match (&task.link, task.ifindex, task.vlan) {
        (Some(link), _, Some(vlan)) => format!("{link}.{vlan}"),
        (None, _, Some(vlan)) => format!("VLAN {vlan}"),
        (Some(link), Some(ifindex), None) => format!("{link} ({ifindex})"),
        (link, ..) => link.clone().unwrap_or_else(|| String::from("-")),
    };
    let gates = task
        .gates
        .iter()
        .map(|gate| format!("{} {} #{}", gate.attach, gate.program, gate.program_id));
    let gates = gates.collect::<Vec<_>>().join(", ");
    [
        task.task.clone(),
        state,
        link,
        if gates.is_empty() { String::from("-") } else { gates },
        fill(&task.tables.connections),
        fill(&task.tables.denials),
    ]
}

fn fill(fill: &TableFill) -> String {
    let refused = match fill.refused {
        0 => String::new(),
        refused => format!(" ({refused} refused)"),
    };
    format!("{} of {}{refused}", fill.used, fill.limit)
}

/// A duration in its two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let texts = [0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(duration);
        assert_eq!(
            texts,
            ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "11d 13h"]
        );
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let task = |name: &str| TaskStatus {
            task: name.to_owned(),
            ..TaskStatus::default()
        };
        let text = table(&[task("a"), task("a-longer-name")]);
        let starts: Vec<_> = text
            .lines()
            .map(|line| line.find("STATE").or(line.find("waiting")))
            .collect();
        assert_eq!(starts, [Some(15); 3], "{text}");
        assert!(text.contains("0 of 0"));
    }
}
