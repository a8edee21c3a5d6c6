//! The socket's file: its owner, its mode, and its existence.

use std::{
    fs::{self, File, Permissions},
    io::Read as _,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Group,
};
use testkit::{ControlSocket, E2eTest, Ledger, netns::until};

use crate::server;

/// The output of curl as this user and group.
fn curl_as(control: &ControlSocket, uid: u32, gid: u32) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--unix-socket"]);
    curl.arg(&control.path).arg("http://t/v1/status").uid(uid).gid(gid);
    let output = curl.output().context("cannot run curl")?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn only_root_and_the_group_may_use_it() -> Result<()> {
    const NOBODY: u32 = 65534;
    let test = E2eTest::start(server)?;
    let control = test.control();
    let socket = fs::symlink_metadata(&control.path)?;
    ensure!(socket.file_type().is_socket() && socket.mode() & 0o7777 == 0o660 && socket.uid() == 0);
    let folder = fs::symlink_metadata("/run/taskgate")?;
    let group = Group::from_name("taskgate")?.map(|group| group.gid.as_raw());
    ensure!(socket.gid() == group.unwrap_or(0) && folder.gid() == group.unwrap_or(0));
    ensure!(
        folder.mode() & 0o7777 == if group.is_some() { 0o710 } else { 0o700 },
        "{:o}",
        folder.mode()
    );
    // Other users than root have no access to the other files.
    for entry in fs::read_dir("/run/taskgate")? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(
            entry.file_type()?.is_socket()
                || !name.starts_with(&control.instance)
                || (metadata.mode() & 0o777).trailing_zeros() >= 6,
            "`{name}` has mode {:o}",
            metadata.mode()
        );
    }
    ensure!(curl_as(&control, 0, 0)?.contains("\"healthy\":true"));
    let said = curl_as(&control, NOBODY, NOBODY)?;
    ensure!(!said.contains("healthy") && said.contains("curl"), "{said}");
    if let Some(group) = group {
        ensure!(curl_as(&control, NOBODY, group)?.contains("\"healthy\":true"));
    }
    test.daemon.await_message("commands are taken on")?;

    // Mode and owner are changed by hand.
    let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::symlink_metadata(path)?.mode() & 0o7777);
    fs::set_permissions(&control.path, Permissions::from_mode(0o666))?;
    until("the socket has its mode again", || Ok(mode(&control.path)? == 0o660))?;
    chown(&control.path, Some(NOBODY), Some(NOBODY))?;
    until("the socket has its owner again", || {
        let is = fs::symlink_metadata(&control.path)?;
        Ok((is.uid(), is.gid(), is.mode() & 0o7777) == (0, socket.gid(), 0o660))
    })?;
    test.daemon.await_message("had another owner or mode than it should")?;
    let path = Path::new("/run/taskgate");
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    until("the folder has its mode again", || {
        Ok(mode(path)? == folder.mode() & 0o7777)
    })?;
    ensure!(curl_as(&control, 0, 0)?.contains("\"healthy\":true"));
    test.finish(&Ledger::default())?;
    Ok(())
}

#[test]
fn who_asks_for_a_change_is_logged() -> Result<()> {
    let test = E2eTest::start(server)?;
    test.control().call("POST", "/v1/apply", "")?.ok()?;
    let pid = std::process::id();
    test.daemon
        .await_message(&format!("apply is asked for by pid {pid}, uid 0, gid 0"))?;
    test.finish(&Ledger::default())?;
    Ok(())
}

#[test]
fn it_is_made_again_where_somebody_takes_it_away() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let answers = || Ok(control.path.exists() && control.get("/v1/status").is_ok_and(|answer| answer.status == 200));
    fs::remove_file(&control.path)?;
    until("the socket is there again", answers)?;

    // A file and a socket of other processes.
    fs::remove_file(&control.path)?;
    fs::write(&control.path, "no socket")?;
    until("the socket is there again", answers)?;
    fs::remove_file(&control.path)?;
    let other = std::os::unix::net::UnixDatagram::bind(&control.path)?;
    until("the socket is there again", answers)?;
    drop(other);

    // A folder in place of the socket is not taskgate's and cannot be replaced: taskgate leaves and logs it.
    fs::remove_file(&control.path)?;
    fs::create_dir(&control.path)?;
    test.daemon.await_message("cannot be made, and no command is taken")?;
    fs::remove_dir(&control.path)?;
    until("the socket is there again", answers)?;
    let path = control.path.clone();
    test.finish(&Ledger::default())?;
    ensure!(!Path::new(&path).exists());
    Ok(())
}

/// The file whose lock is the instance.
fn lock_file(test: &E2eTest) -> PathBuf {
    test.control().path.with_extension("lock")
}

/// The messages of a second taskgate for the same instance, which must exit with an error.
fn second_one(test: &E2eTest) -> Result<String> {
    let mut second = test.topology.run_command("main")?;
    let output = second.stderr(Stdio::piped()).output()?;
    ensure!(!output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_instance_stays_taken_when_its_lock_is_removed() -> Result<()> {
    let test = E2eTest::start(server)?;
    let said = second_one(&test)?;
    ensure!(said.contains("already runs"), "{said}");
    fs::remove_file(lock_file(&test))?;
    until("the lock is there again", || Ok(lock_file(&test).exists()))?;
    test.daemon.await_message("is made again")?;
    let said = second_one(&test)?;
    let pid = test.daemon.pid()?;
    ensure!(said.contains(&format!("already runs, with pid {pid}")), "{said}");
    let lock = lock_file(&test);
    test.finish(&Ledger::default())?;
    ensure!(!lock.exists());
    Ok(())
}

/// The lock of an ended process may remain for a moment; a start waits for that, but not for a process that is alive.
#[test]
fn a_start_waits_for_a_process_that_ends() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    test.kill()?;
    let hold = |pid: u32| -> Result<Flock<File>> {
        let path = lock_file(&test);
        fs::write(&path, format!("{pid}\n"))?;
        let lock = Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock);
        lock.map_err(|(_, errno)| errno.into())
    };
    let held = hold(std::process::id())?;
    let said = second_one(&test)?;
    ensure!(said.contains("already runs"), "{said}");
    drop(held);

    let held = hold(test.daemon.pid()?)?;
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        drop(held);
    });
    test.restart(|config| config)?;
    release.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let mut holder = String::new();
    File::open(lock_file(&test))?.read_to_string(&mut holder)?;
    ensure!(holder.trim() == test.daemon.pid()?.to_string(), "{holder}");
    test.finish(&Ledger::default())?;
    Ok(())
}
