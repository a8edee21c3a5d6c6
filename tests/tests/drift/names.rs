//! Pins in bpffs that another process removes.

use std::{fs, panic::resume_unwind, thread};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};
use testkit::{netns::until, pins};

use crate::{CLOSED, Gated, cases};

const BPFFS: &str = "/sys/fs/bpf";

#[test]
fn a_folder_of_names_that_was_removed_is_there_again() -> Result<()> {
    for (attach, made) in cases() {
        let mut gated = Gated::start(attach, made)?;
        let config = gated.config(CLOSED);
        gated.daemon.apply(&config)?;
        let folder = pins::folder(&gated.instance());
        for what in ["links", "maps", "images", ""] {
            let folder = folder.join(what);
            let has_names = what.is_empty() || !pins::names(&gated.instance(), what)?.is_empty();
            fs::remove_dir_all(&folder)?;
            if has_names {
                gated.await_repair("pin-missing")?;
                ensure!(folder.is_dir(), "{what}");
            }
            gated.check_closed().context(what)?;
        }
        let state = format!("/run/taskgate/{}.state", gated.instance());
        fs::remove_file(&state)?;
        until("the state is there again", || Ok(fs::exists(&state)?))?;
        gated.await_repair("pin-missing")?;
        gated.check_said()?;
        gated.check_successor()?;
    }
    Ok(())
}

/// Runs a test on a thread that has a bpffs to itself, which no other mount covers.
fn with_own_bpffs(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        while umount(BPFFS).is_ok() {}
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)?;
        test()
    };
    thread::scope(|scope| scope.spawn(alone).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

#[test]
fn a_bpffs_that_was_unmounted_is_there_again() -> Result<()> {
    with_own_bpffs(|| {
        for (attach, made) in cases() {
            let mut gated = Gated::start(attach, made)?;
            let config = gated.config(CLOSED);
            gated.daemon.apply(&config)?;
            umount(BPFFS)?;
            gated.await_repair("pin-missing")?;
            gated.check_closed()?;
            gated.check_said()?;
            gated.check_successor()?;
        }
        Ok(())
    })
}

/// A gate without a pin works like any other while its process lives: the link is not closed for that reason.
#[test]
fn names_that_cannot_be_given_are_told_of_and_cut_nothing() -> Result<()> {
    with_own_bpffs(|| {
        for (attach, made) in cases() {
            let mut gated = Gated::start(attach, made)?;
            let config = gated.config(CLOSED);
            gated.daemon.apply(&config)?;
            fs::remove_dir_all(pins::folder(&gated.instance()))?;
            let remount = |flags| {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
                mount(None::<&str>, BPFFS, None::<&str>, flags, None::<&str>)
            };
            // The pin may have been repaired in between.
            while remount(MsFlags::MS_RDONLY).is_ok() && pins::folder(&gated.instance()).exists() {
                remount(MsFlags::empty())?;
                fs::remove_dir_all(pins::folder(&gated.instance()))?;
            }
            for _ in 0..3 {
                ensure!(gated.status()?["healthy"] == false);
                gated.check_closed()?;
            }
            remount(MsFlags::empty())?;
            gated.await_repair("pin-missing")?;
            gated.check_said()?;
            gated.check_successor()?;
        }
        Ok(())
    })
}
