//! A configuration folder, and runs of the binary on it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

/// The name of the configuration's folder: messages name files by it.
const CONFIG: &str = "conf";

/// A temporary folder with a configuration; removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Creates the folder with these files, given by name and text.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{number}", process::id()));
        fs::create_dir_all(folder.join(CONFIG)).unwrap();
        for (name, text) in files {
            fs::write(folder.join(CONFIG).join(name), text).unwrap();
        }
        Self(folder)
    }

    /// The folder that commands run in.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A command of the binary in the configuration's folder, without taskgate's environment variables.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskgate"));
        command.current_dir(&self.0);
        for name in [
            "TASKGATE_CONFIG",
            "TASKGATE_INSTANCE",
            "TASKGATE_LOG_LEVEL",
            "TASKGATE_LOG_FORMAT",
            "NO_COLOR",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(name);
        }
        command.args(arguments.split_whitespace());
        command
    }

    /// Runs the binary on the configuration; returns its output and exit code.
    pub(crate) fn run(&self, arguments: &str) -> Answer {
        let output = self.command(arguments).env("TASKGATE_CONFIG", CONFIG).output().unwrap();
        Answer {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            exit: output.status.code(),
        }
    }

    /// Runs the binary once for each line: the commands with their answers, as in a terminal.
    pub(crate) fn transcript(&self, lines: &[&str]) -> String {
        let mut text = String::new();
        for line in lines {
            let Answer { out, err, exit } = self.run(line);
            let exit = exit.map_or_else(|| String::from("signal"), |exit| exit.to_string());
            write!(text, "$ taskgate {line}\n{out}").unwrap();
            for line in err.lines() {
                writeln!(text, "stderr: {line}").unwrap();
            }
            writeln!(text, "exit: {exit}\n").unwrap();
        }
        text
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The output and the exit code of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) exit: Option<i32>,
}
