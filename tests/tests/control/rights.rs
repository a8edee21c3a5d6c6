//! Users of the socket learn nothing about files that they cannot read themselves.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{ControlSocket, E2eTest, Ledger, daemon::REFUSED};

use crate::{SERVER, server};

const NOBODY: u32 = 65534;
const GROUP: u32 = 54321;
const SECRET: &str = "xyzzy-of-root";

/// The socket's answer to a user who can open it by the capability that curl is given, so that the host need not have the
/// group.
fn posted_as_nobody(control: &ControlSocket, group: Option<u32>, path: &str, folder: &Path) -> Result<(u16, Value)> {
    let mut command = Command::new("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody]);
    match group {
        Some(group) => command.args(["--groups", &group.to_string()]),
        None => command.arg("--clear-groups"),
    };
    command.args(["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]);
    command.args([
        "curl",
        "-sS",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code}",
        "--unix-socket",
    ]);
    command.arg(&control.path).arg(format!("http://t{path}"));
    command.args(["-d", &json!({ "config": folder }).to_string()]);
    let output = command.output().context("cannot run setpriv")?;
    let said = String::from_utf8(output.stdout)?;
    let (body, status) = said
        .rsplit_once('\n')
        .with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    let body = serde_json::from_str(body).with_context(|| body.to_owned())?;
    Ok((status.parse()?, body))
}

/// A folder with a file that only root may read, or a group as well.
fn secret_folder(test: &E2eTest, name: &str, gid: u32, mode: u32) -> Result<PathBuf> {
    let folder = open_folder(test, name)?;
    let file = folder.join("t.yaml");
    fs::write(&file, format!("taskgate: v1\n{SECRET}: 1\n"))?;
    chown(&file, Some(0), Some(gid))?;
    fs::set_permissions(&file, Permissions::from_mode(mode))?;
    Ok(folder)
}

/// A folder that every user can read.
fn open_folder(test: &E2eTest, name: &str) -> Result<PathBuf> {
    fs::set_permissions(test.topology.folder(), Permissions::from_mode(0o755))?;
    let folder = test.topology.folder().join(name);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    Ok(folder)
}

#[test]
fn files_are_read_with_the_callers_rights() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let roots = secret_folder(&test, "roots", 0, 0o600)?;
    let rootgroups = secret_folder(&test, "rootgroups", 0, 0o640)?;
    let groups = secret_folder(&test, "groups", GROUP, 0o640)?;
    let closed = secret_folder(&test, "closed", 0, 0o644)?;
    fs::set_permissions(&closed, Permissions::from_mode(0o700))?;
    let link = open_folder(&test, "link")?;
    symlink("/etc/shadow", link.join("t.yaml"))?;
    for path in ["/v1/apply", "/v1/diff"] {
        for (folder, group, learns) in [
            (&roots, None, false),
            (&roots, Some(GROUP), false),
            (&rootgroups, Some(GROUP), false),
            (&groups, None, false),
            (&groups, Some(GROUP), true),
            (&closed, Some(GROUP), false),
            (&link, None, false),
        ] {
            let (status, problem) = posted_as_nobody(&control, group, path, folder)?;
            let said = problem.to_string();
            ensure!(status == 422, "{path} {}: {status} {said}", folder.display());
            ensure!(said.contains(SECRET) == learns, "{path} {}: {said}", folder.display());
            ensure!(learns || said.contains("ermission denied"), "{path}: {said}");
        }
        // Root gets the contents.
        let problem = control.post(path, &json!({ "config": roots }))?.problem(422)?;
        ensure!(problem.to_string().contains(SECRET), "{problem}");
    }
    ensure!(control.get("/v1/status")?.ok()?["generation"] == 1);
    test.finish(&Ledger::default())?;
    Ok(())
}

/// A folder that taskgate follows on a user's request is read with that user's rights, also when other users, or signals,
/// cause it to be read again.
#[test]
fn a_followed_folder_is_its_users_for_good() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let roots = secret_folder(&test, "roots", 0, 0o600)?;
    let folder = open_folder(&test, "theirs")?;
    let file = folder.join("t.yaml");
    fs::write(
        &file,
        test.config
            .clone()
            .group("server", &SERVER.replace("80", "[80, 81]"))
            .to_string(),
    )?;
    let (status, applied) = posted_as_nobody(&control, None, "/v1/apply", &folder)?;
    ensure!(status == 200 && applied["generation"] == 2, "{status}: {applied}");
    fs::remove_file(&file)?;
    symlink(roots.join("t.yaml"), &file)?;
    let problem = control.call("POST", "/v1/apply", "")?.problem(422)?;
    ensure!(!problem.to_string().contains(SECRET), "{problem}");
    let problem = control.call("POST", "/v1/diff", "")?.problem(422)?;
    ensure!(!problem.to_string().contains(SECRET), "{problem}");
    test.daemon.signal(Signal::SIGHUP)?;
    let refused = || {
        test.daemon
            .messages()
            .iter()
            .filter(|line| line.contains(REFUSED))
            .count()
    };
    testkit::netns::until("it is refused again", || Ok(refused() == 2))?;
    let status = control.get("/v1/status")?.ok()?;
    ensure!(
        status["generation"] == 2 && !status.to_string().contains(SECRET),
        "{status}"
    );
    ensure!(!test.daemon.messages().join("\n").contains(SECRET));
    test.finish(&Ledger::default())?;
    Ok(())
}
