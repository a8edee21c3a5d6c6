//! Persistent state that was damaged while no taskgate ran: nothing is guessed, and attached gates stay in force.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use taskgate_bpf::pins::Pins;
use taskgate_ebpf::abi::{image::IMAGE_LAYOUT, map};
use testkit::{
    Config, Netns, Topology, at,
    kernel::gates,
    ledger::Action,
    pins,
    record::Status,
    traffic::{Answer, Client, TcpEcho, probe},
};

use crate::{SERVER, WEB, check_denials, server};

/// A task behind the gate of a taskgate that was killed, and a connection that no rule allows any more.
struct Left {
    topology: Topology,
    config: Config,
    task: Netns,
    link: String,
    live: Client,
    _echo: TcpEcho,
}

impl Left {
    fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let daemon = topology.start(&server(topology.config()))?;
        let task = topology.task("web-1")?;
        let link = topology.host_link("web-1")?;
        let echo = TcpEcho::start(&task, 80)?;
        let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
        live.echo(1000)?;
        daemon.kill_now()?;
        Ok(Self {
            config: server(topology.config()).group("server", "egress: []"),
            topology,
            task,
            link,
            live,
            _echo: echo,
        })
    }

    fn instance(&self) -> String {
        self.topology.instance("main")
    }

    fn pins(&self, folder: &str) -> PathBuf {
        pins::folder(&self.instance()).join(folder)
    }

    fn journal(&self) -> PathBuf {
        Path::new("/run/taskgate").join(format!("{}.journal", self.instance()))
    }

    fn state(&self) -> PathBuf {
        Path::new("/run/taskgate").join(format!("{}.state", self.instance()))
    }

    /// The next taskgate refuses to start and says what to do, and the gate stays as it was.
    fn check_refused(&mut self, case: &str, says: &[&str]) -> Result<()> {
        let before = pins::names(&self.instance(), "links")?;
        let daemon = self.topology.begin(&self.config, Some(1))?;
        daemon.await_end()?;
        let stopped = daemon.kill_now()?;
        let said = stopped.messages.join("\n");
        ensure!(stopped.status.code() == Some(1), "{case}: {}: {said}", stopped.status);
        for says in says {
            ensure!(said.contains(says), "{case}: `{says}` is not in: {said}");
        }
        ensure!(pins::names(&self.instance(), "links")? == before, "{case}");
        self.check_stands(case)
    }

    fn check_stands(&mut self, case: &str) -> Result<()> {
        ensure!(gates(&self.topology.host, &self.link)? == (1, 1), "{case}");
        self.live.echo(1000).with_context(|| case.to_owned())
    }

    fn check_denials(&self) -> Result<()> {
        check_denials(&self.topology.outside, &self.task, WEB)
    }

    /// With all files in place again, taskgate takes over.
    fn check_taken_over(mut self) -> Result<()> {
        let daemon = self.topology.start(&self.config)?;
        self.check_stands("taken over")?;
        self.check_denials()?;
        daemon.stop()?;
        Ok(())
    }
}

#[test]
fn a_table_that_is_missing_or_another_is_refused() -> Result<()> {
    let mut left = Left::new()?;
    let maps = left.pins("maps");
    let names: Vec<_> = pins::names(&left.instance(), "maps")?.into_iter().collect();
    let aside = left.pins("aside");
    for name in &names {
        let path = maps.join(name);
        fs::rename(&path, &aside)?;
        left.check_refused(&format!("`{name}` is missing"), &[name, "--drop-connections"])?;
        fs::create_dir(&path)?;
        left.check_refused(&format!("`{name}` is a folder"), &[name, "--drop-connections"])?;
        fs::remove_dir(&path)?;
        // No other table has the same shape.
        let other = maps.join(map::COUNTERS);
        if path != other {
            fs::rename(&other, &path)?;
            left.check_refused(&format!("`{name}` is another table"), &["--drop-connections"])?;
            fs::rename(&path, &other)?;
        }
        fs::rename(&aside, &path)?;
    }
    left.check_denials()?;
    left.check_taken_over()
}

#[test]
fn an_image_or_a_state_that_cannot_be_used_is_refused() -> Result<()> {
    let mut left = Left::new()?;
    let images = left.pins("images");
    let aside = left.pins("aside");
    let image = pins::names(&left.instance(), "images")?;
    let image = images.join(image.first().context("no image")?);
    fs::rename(&image, &aside)?;
    left.check_refused("no image", &["image", "--drop-connections"])?;
    fs::rename(&aside, &image)?;

    let state = fs::read_to_string(left.state())?;
    for (case, text) in [
        ("empty", String::new()),
        ("half", state[..state.len() / 2].to_owned()),
        ("no text", "\0".repeat(512)),
        ("another form", state.replace("\"format\":1", "\"format\":9999")),
        ("another layout", edit(&state, "abi")?),
    ] {
        fs::write(left.state(), text)?;
        left.check_refused(case, &["cannot be taken over", "--drop-connections"])?;
    }
    fs::remove_file(left.state())?;
    left.check_refused("no state", &["is missing", "--drop-connections"])?;
    mkfifo(&left.state(), Mode::S_IRUSR)?;
    left.check_refused("a pipe", &["cannot be taken over", "--drop-connections"])?;
    fs::remove_file(left.state())?;
    left.check_denials()?;
    fs::write(left.state(), state)?;
    left.check_taken_over()
}

/// Each build has its own image: a build with another image layout takes over, and the previous build takes over again.
#[test]
fn an_image_of_another_build_is_no_hindrance() -> Result<()> {
    let mut left = Left::new()?;
    let pins = Pins::of(&left.instance())?;
    let layout = || -> Result<Vec<u64>> {
        let images = pins.images()?;
        Ok(images.iter().map(|image| image[0].load(Ordering::SeqCst)).collect())
    };
    ensure!(layout()? == [IMAGE_LAYOUT]);
    for round in 0..3_u64 {
        // As another build would have written the image.
        let other = IMAGE_LAYOUT ^ (0x55 + round);
        for image in pins.images()? {
            image[0].store(other, Ordering::SeqCst);
        }
        left.check_stands("before")?;
        let daemon = left.topology.start(&left.config)?;
        left.check_stands("taken over")?;
        left.check_denials()?;
        ensure!(layout()? == [IMAGE_LAYOUT], "an image of another build stayed");
        daemon.kill_now()?;
    }
    // Images with another layout of the words that are carried over are refused: nothing is guessed.
    for image in pins.images()? {
        image[0].store(IMAGE_LAYOUT ^ 1 << 40, Ordering::SeqCst);
    }
    left.check_refused("other epochs", &["which connections are old", "--drop-connections"])?;
    for image in pins.images()? {
        image[0].store(IMAGE_LAYOUT, Ordering::SeqCst);
    }
    left.check_taken_over()
}

/// Tables of another build are given up only on request: the gates stay attached throughout, connections that a rule
/// allows go on, all others are cut.
#[test]
fn tables_of_another_layout_are_given_up_only_if_asked() -> Result<()> {
    let mut left = Left::new()?;
    let state = fs::read_to_string(left.state())?;
    fs::write(left.state(), edit(&state, "abi")?)?;
    left.check_refused("another layout", &["another layout", "--drop-connections"])?;
    let daemon = left.topology.start_dropping(&left.config)?;
    ensure!(gates(&left.topology.host, &left.link)? == (1, 1));
    left.live.echo(1000).expect_err("no rule allows it any more");
    left.check_denials()?;
    daemon.kill_now()?;
    // Tables that were made anew are taken over like any others.
    left.config = server(left.topology.config());
    let daemon = left.topology.start(&left.config)?;
    Client::connect(&left.topology.outside, at(WEB, 80))?.finish()?;
    left.check_denials()?;
    daemon.stop()?;
    Ok(())
}

/// Tables of gates without pins cannot be taken over: the gates of tasks are replaced, those of other links are closed.
/// The filters stay attached without pins.
#[test]
fn gates_that_nothing_leads_to_are_replaced_or_closed() -> Result<()> {
    let topology = Topology::new()?;
    let [web, other] = [("tg-web", WEB), ("tg-other", "10.88.0.11")];
    let group = |rules| {
        let config = topology.config().with("settings: { attach: clsact }");
        config
            .group("server", rules)
            .device_task("web-1", web.0, &[web.1], &["server"])
    };
    let tasks = [web, other].map(|(link, address)| topology.device(link, &[address], true));
    let [web_task, other_task] = tasks;
    let (web_task, other_task) = (web_task?, other_task?);
    let both = group(SERVER).device_task("other-1", other.0, &[other.1], &["server"]);
    let daemon = topology.start(&both)?;
    let _echo = [TcpEcho::start(&web_task, 80)?, TcpEcho::start(&other_task, 80)?];
    for (_, address) in [web, other] {
        Client::connect(&topology.outside, at(address, 80))?.finish()?;
    }
    let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    let before = daemon.objects()?;
    daemon.kill_now()?;
    let instance = topology.instance("main");
    fs::remove_dir_all(pins::folder(&instance))?;
    for name in ["state", "journal"] {
        fs::remove_file(format!("/run/taskgate/{instance}.{name}"))?;
    }
    let refused = topology.begin(&group("egress: []"), Some(1))?;
    refused.await_end()?;
    ensure!(refused.kill_now()?.status.code() == Some(1));
    ensure!(live.echoes()?);

    let daemon = topology.start_dropping(&group("egress: []"))?;
    let said = daemon.messages().join("\n");
    ensure!(
        said.contains("2 links that an earlier run gated stay gated") && !said.contains("with their connections"),
        "{said}"
    );
    ensure!(
        said.contains("a link that an earlier run gated is no task's any more"),
        "{said}"
    );
    ensure!(!live.echoes()?, "no rule allows it any more");
    for ((link, address), task) in [(web, &web_task), (other, &other_task)] {
        ensure!(gates(&topology.host, link)? == (1, 1), "{link}");
        ensure!(probe(&topology.outside, at(address, 80))? == Answer::Silence, "{link}");
        check_denials(&topology.outside, task, address)?;
    }
    // The programs that no pin led to are no longer attached anywhere.
    before.await_gone()?;
    daemon.await_ledger(|ledger| ledger.total("web-1", Action::Reject).packets != 0)?;
    daemon.stop()?;
    Ok(())
}

/// The state with another number under a key.
fn edit(state: &str, key: &str) -> Result<String> {
    let key = format!("\"{key}\":");
    let (before, rest) = state
        .split_once(&key)
        .with_context(|| format!("no `{key}` in {state}"))?;
    let end = rest.find(',').context("no end of a number")?;
    Ok(format!("{before}{key}1{}", &rest[end..]))
}

/// A removed pin: that side of the gate is detached, and is attached again.
#[test]
fn a_gate_that_somebody_took_off_is_put_up_again() -> Result<()> {
    let left = Left::new()?;
    for number in 0..2 {
        let links: Vec<_> = pins::names(&left.instance(), "links")?.into_iter().collect();
        ensure!(links.len() == 2, "{links:?}");
        fs::remove_file(left.pins("links").join(&links[number]))?;
        let daemon = left.topology.start(&left.config)?;
        ensure!(gates(&left.topology.host, &left.link)? == (1, 1));
        left.check_denials()?;
        daemon.kill_now()?;
    }
    left.check_taken_over()
}

/// A user who can make folders in bpffs cannot make root remove files in other folders, or pass his pins off as
/// taskgate's.
#[test]
fn a_folder_that_is_not_roots_alone_is_refused() -> Result<()> {
    let topology = Topology::new()?;
    let config = server(topology.config());
    let folder = pins::folder(&topology.instance("main"));
    let victim = topology.folder().join("victim");
    fs::create_dir(&victim)?;
    fs::write(victim.join("precious"), "")?;
    let refused = |says: &str| -> Result<()> {
        let daemon = topology.begin(&config, Some(1))?;
        daemon.await_end()?;
        let stopped = daemon.kill_now()?;
        let said = stopped.messages.join("\n");
        ensure!(
            stopped.status.code() == Some(1) && said.contains(says),
            "{}: {said}",
            stopped.status
        );
        Ok(())
    };
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
    refused("others may write to it")?;
    fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
    chown(&folder, Some(65_534), None)?;
    refused("it is not root's")?;
    chown(&folder, Some(0), None)?;
    symlink(&victim, folder.join("maps"))?;
    refused("it is no folder")?;
    ensure!(victim.join("precious").exists());
    fs::remove_file(folder.join("maps"))?;
    topology.start(&config)?.stop()?;
    Ok(())
}

/// A state file about objects that no longer exist does not prevent a start.
#[test]
fn a_state_without_gates_is_of_no_account() -> Result<()> {
    let left = Left::new()?;
    left.topology.host.ip(&format!("link delete {}", left.link))?;
    fs::remove_dir_all(left.pins("maps"))?;
    let daemon = left.topology.start(&left.config)?;
    ensure!(gates(&left.topology.host, &left.link)? == (1, 1));
    daemon.stop()?;
    Ok(())
}

/// A configuration that cannot be used does not change attached gates.
#[test]
fn a_bad_configuration_leaves_the_gates_as_they_are() -> Result<()> {
    let mut left = Left::new()?;
    let good = left.config.clone();
    left.config = good
        .clone()
        .group("server", &SERVER.replace("ports: [80,", "ports: [eighty,"));
    let daemon = left.topology.begin(&left.config, Some(1))?;
    daemon.await_end()?;
    let stopped = daemon.kill_now()?;
    ensure!(stopped.status.code() == Some(3), "{}", stopped.status);
    left.check_stands("a bad configuration")?;
    left.check_denials()?;
    left.config = good;
    left.check_taken_over()
}

/// Without the journal it is unknown how much of the tables was recorded: none of it is recorded again, and SKIPDATA says
/// so.
#[test]
fn without_the_journal_records_begin_anew_and_say_so() -> Result<()> {
    for (case, damage) in [("gone", None), ("cut", Some(100))] {
        let mut left = Left::new()?;
        match damage {
            None => fs::remove_file(left.journal())?,
            Some(length) => fs::OpenOptions::new()
                .write(true)
                .open(left.journal())?
                .set_len(length)?,
        }
        let daemon = left.topology.start(&left.config)?;
        left.check_stands(case)?;
        let flow = left.live.flow();
        daemon.await_ledger(|ledger| ledger.get("web-1", flow, Action::Accept).packets != 0)?;
        let stopped = daemon.stop()?;
        let said = stopped.messages.join("\n");
        ensure!(
            said.contains("came before there was a journal of their records"),
            "{case}: {said}"
        );
        ensure!(said.contains("it is damaged") == damage.is_some(), "{case}: {said}");
        let skipped = stopped
            .records_of("web-1")
            .filter(|record| record.status == Status::SkipData);
        ensure!(skipped.count() == 1, "{case}: {:?}", stopped.records);
        // A request and its answer, and not the opening of the connection.
        let count = stopped.ledger()?.get("web-1", flow, Action::Accept);
        ensure!(count.bytes < 1500, "{case}: {count:?}");
    }
    Ok(())
}
