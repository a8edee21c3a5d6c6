//! Runs a guest in QEMU and reads its serial console.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    mem,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::kernels::Image;
use crate::{exec, setup::emulator, test::Tally};

/// The guest's memory, in MiB: the archive is unpacked into it.
const MEMORY: &str = "3072";

/// The result of a guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// The total of all summaries of test programs.
    pub(super) sum: Tally,
    /// The guest's messages that are not about a test program, without `vm: `.
    pub(super) said: Vec<String>,
    /// Faults other than failed tests.
    pub(super) wrong: Vec<String>,
    /// The run time of each program in seconds.
    pub(super) seconds: BTreeMap<String, u64>,
}

/// Parameters of a guest run.
#[derive(Clone, Copy)]
pub(super) struct GuestRun<'a> {
    /// The test programs that the guest runs.
    pub(super) programs: &'a [&'a str],
    /// The time limit after which the guest is killed.
    pub(super) limit: Duration,
    /// Whether the guest's output is shown.
    pub(super) shown: bool,
}

/// Boots a guest and reads what it prints.
pub(super) fn run(image: &Image, initramfs: &Path, course: GuestRun<'_>) -> Result<Report> {
    let mut command = emulator::command()?;
    // Software emulation: Debian's kernels hang under some machines' KVM.
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc", "-smp", &cpus()])
        .args(["-m", MEMORY, "-no-reboot", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio", "-monitor", "none"])
        .arg("-kernel")
        .arg(&image.file)
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 loglevel=2 panic=-1 oops=panic mitigations=off",
        ]);
    let name = exec::shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let reading = read(&mut child, course);
    // The guest has ended, or has reached its time limit.
    drop(child.kill());
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    let mut reader = reading?;
    if !reader.ended {
        let why = format!("the guest broke off ({status}) before all tests had run");
        reader.report.wrong.push(why);
    }
    Ok(reader.finish(course.programs))
}

fn cpus() -> String {
    thread::available_parallelism()
        .map_or(1, |count| count.get().min(8))
        .to_string()
}

fn read(child: &mut Child, course: GuestRun<'_>) -> Result<Reader> {
    let GuestRun { programs, limit, shown } = course;
    let output = child.stdout.take().context("qemu has no standard output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let end = Instant::now() + limit;
    let mut reader = Reader::default();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if shown {
                    println!("{line}");
                }
                reader.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(reader),
            Err(RecvTimeoutError::Timeout) => {
                let at = reader.current.as_deref().unwrap_or("no test program");
                let done = reader.seconds_of(programs);
                reader.report.wrong.push(format!(
                    "the guest was ended after {} minutes, in {at}; it had run {done}",
                    limit.as_secs() / 60
                ));
                return Ok(reader);
            }
        }
    }
}

/// Reads a guest's lines.
#[derive(Default)]
struct Reader {
    report: Report,
    /// The current program, its start time, and its summary.
    current: Option<String>,
    began: Option<Instant>,
    of_current: Option<Tally>,
    /// For a program whose failed tests are repeated: the tests that passed the first time.
    passed_at_once: Tally,
    /// Whether the guest's last message has come.
    ended: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(sum) = Tally::of_line(line) {
            self.of_current = Some(sum);
        }
        let Some(words) = line.strip_prefix("vm: ") else {
            return;
        };
        if let Some(program) = words.strip_prefix("program ") {
            self.current = Some(program.to_owned());
            self.began = Some(Instant::now());
            self.of_current = None;
            self.passed_at_once = Tally::default();
        } else if let Some(again) = words.strip_prefix("again ") {
            self.again(again);
        } else if let Some(status) = words.strip_prefix("status ") {
            self.status(status);
        } else if let Some(wrong) = words.strip_prefix("wrong: ") {
            self.report.wrong.push(wrong.to_owned());
        } else if words == "end" {
            self.ended = true;
        } else {
            self.report.said.push(words.to_owned());
        }
    }

    /// Handles the repetition of a program: of its failed tests, whose names follow its own, or of all tests.
    fn again(&mut self, words: &str) {
        let first = self.of_current.take();
        let said = match (words.split_once(' '), first) {
            (Some((program, tests)), Some(sum)) => {
                self.passed_at_once = Tally { failed: 0, ..sum };
                format!("`{program}`: run twice: {tests}")
            }
            _ => format!("`{words}`: run twice, it broke off at first"),
        };
        self.report.said.push(said);
    }

    fn status(&mut self, words: &str) {
        let (program, status) = words.split_once(' ').unwrap_or((words, "unknown"));
        let sum = self.of_current.take();
        let is_test = self.current.take().is_some();
        self.report.sum += sum.unwrap_or_default();
        self.report.sum += mem::take(&mut self.passed_at_once);
        let failures = sum.is_some_and(|sum| sum.failed > 0);
        if is_test && sum.is_none() {
            let wrong = format!("`{program}` ended with status {status} and no sum of its tests");
            self.report.wrong.push(wrong);
        } else if status != "0" && !failures {
            self.report
                .wrong
                .push(format!("`{program}` ended with status {status}"));
        }
        if let Some(began) = self.began.take() {
            self.report
                .seconds
                .insert(program.to_owned(), began.elapsed().as_secs());
        }
    }

    fn seconds_of(&self, programs: &[&str]) -> String {
        format!("{} of {} test programs", self.report.seconds.len(), programs.len())
    }

    /// Adds faults for expected messages that did not come.
    fn finish(mut self, programs: &[&str]) -> Report {
        for program in programs {
            if self.ended && !self.report.seconds.contains_key(*program) {
                self.report.wrong.push(format!("`{program}` did not run"));
            }
        }
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut reader = Reader::default();
        for line in lines {
            reader.line(line);
        }
        reader.finish(&["one", "two"])
    }

    const GOOD: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
    const ONE_GOOD: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1s";
    const ONE_BAD: &str =
        "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1s";
    const BAD: &str = "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";

    #[test]
    fn sums_are_added_and_what_is_missing_is_told() {
        let good = report(&[
            "vm: kernel 6.1",
            "vm: status verified 0",
            "vm: program one",
            GOOD,
            "vm: status one 0",
            "vm: program two",
            BAD,
            "vm: status two 101",
            "vm: end",
        ]);
        assert_eq!((good.sum.passed, good.sum.failed), (5, 1));
        assert_eq!(good.said, ["kernel 6.1"]);
        assert_eq!(good.wrong, [""; 0]);
        assert_eq!(good.seconds.len(), 2);

        let again = report(&[
            "vm: program one",
            BAD,
            "vm: again one a::b",
            ONE_GOOD,
            "vm: status one 0",
            "vm: program two",
            BAD,
            "vm: again two a::b",
            ONE_BAD,
            "vm: status two 101",
            "vm: end",
        ]);
        assert_eq!((again.sum.passed, again.sum.failed), (5, 1));
        assert_eq!(
            again.said,
            ["one", "two"].map(|name| format!("`{name}`: run twice: a::b"))
        );
        assert_eq!(again.wrong, [""; 0]);

        let whole = report(&[
            "vm: program one",
            "vm: again one",
            GOOD,
            "vm: status one 0",
            "vm: program two",
            GOOD,
            "vm: status two 0",
            "vm: end",
        ]);
        assert_eq!((whole.sum.passed, whole.sum.failed), (6, 0));
        assert_eq!(whole.said, ["`one`: run twice, it broke off at first"]);
        assert_eq!(whole.wrong, [""; 0]);

        let table: [(&[&str], &[&str]); 4] = [
            (
                &[
                    "vm: program one",
                    "vm: status one 139",
                    "vm: program two",
                    GOOD,
                    "vm: status two 0",
                    "vm: end",
                ],
                &["`one` ended with status 139 and no sum of its tests"],
            ),
            (
                &["vm: program one", GOOD, "vm: status one 134", "vm: end"],
                &["`one` ended with status 134", "`two` did not run"],
            ),
            (
                &["vm: status verified 1", "vm: wrong: cannot mount /sys"],
                &["`verified` ended with status 1", "cannot mount /sys"],
            ),
            (&["vm: end"], &["`one` did not run", "`two` did not run"]),
        ];
        for (lines, expected) in table {
            assert_eq!(report(lines).wrong, expected, "{lines:?}");
        }
    }
}
