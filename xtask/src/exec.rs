//! Running other programs, with errors that quote the whole command.

use std::{
    env,
    ffi::OsStr,
    io::{Read as _, pipe},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::workspace;

/// The end of a quiet command's output that its error repeats: lines, and characters of each.
const TAIL: (usize, usize) = (15, 240);

/// The cargo that runs this program, with the workspace's root as working directory.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    command
}

/// Runs a command on this terminal and waits for it.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))
}

/// Runs a command on this terminal; an error unless it succeeds.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} failed with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; an error unless it succeeds.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed with {}{}", shown(command), output.status, tail(&words));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed something that is not UTF-8", shown(command)))
}

/// Runs a command within `limit`, and shows its output only if it fails.
pub(crate) fn quiet(command: &mut Command, limit: Duration) -> Result<()> {
    let name = shown(command);
    let (mut reader, writer) = pipe().context("cannot make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot copy a pipe")?)
        .stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    // The command holds the pipe's writing end: while it is open here, the reader would never see the end of the file.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (done, words) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        // The receiver is gone after a timeout.
        drop(done.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned())));
    });
    let Ok(words) = words.recv_timeout(limit) else {
        child
            .kill()
            .and_then(|()| child.wait())
            .with_context(|| format!("cannot end {name}"))?;
        bail!("{name} was ended: it took longer than {} minutes", limit.as_secs() / 60);
    };
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed with {status}{}", tail(&words.unwrap_or_default()));
    }
    Ok(())
}

/// Adds advice to an error.
pub(crate) fn advised(done: Result<()>, advice: &str) -> Result<()> {
    done.map_err(|error| anyhow!("{error:#}\n    {advice}"))
}

/// Finds a program in PATH, and in the system folders that a user's PATH often lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command as typed in a shell: the variables it sets, the program, the arguments.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(value))));
    // cargo is shown by its name, not by its path on this machine.
    let program = if program.ends_with("cargo") {
        OsStr::new("cargo")
    } else {
        program.as_os_str()
    };
    let words = variables.chain([quoted(program)]).chain(command.get_args().map(quoted));
    format!("`{}`", words.collect::<Vec<_>>().join(" "))
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{word}'")
    }
}

/// The last lines of a command's output, indented below the message.
fn tail(words: &str) -> String {
    let lines: Vec<_> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL.0)..];
    last.iter()
        .flat_map(|line| "\n    ".chars().chain(line.chars().take(TAIL.1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("/opt/bin/cargo");
        command
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .env_remove("CARGO_TARGET_DIR")
            .args(["install", "a b"]);
        assert_eq!(shown(&command), "`LLVM_PREFIX=/usr/lib/llvm-22 cargo install 'a b'`");
    }

    #[test]
    fn a_failure_says_command_status_and_output() {
        let error = quiet(
            Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
            Duration::from_secs(10),
        );
        let expected = "`sh -c 'echo one; echo two >&2; exit 3'` failed with exit status: 3\n    one\n    two";
        assert_eq!(error.unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let error = quiet(Command::new("sleep").arg("600"), Duration::ZERO).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sleep 600` was ended: it took longer than 0 minutes"
        );
    }
}
