//! `--watch`: files that change are read once they have settled, whichever way they change.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use testkit::{
    Config, Daemon, Netns, Topology, at,
    daemon::{FILE, REFUSED, RELOADED},
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe},
};

const WEB: &str = "10.88.0.10";

struct Watched {
    topology: Topology,
    daemon: Daemon,
    web: Netns,
}

fn config(topology: &Topology, port: u16) -> Config {
    let rules = format!("ingress: [{{ protocol: tcp, ports: {port}, from: any }}]");
    topology.config().group("web", &rules).task("web-1", &[WEB], &["web"])
}

impl Watched {
    fn start() -> Result<Self> {
        let topology = Topology::new()?;
        let daemon = topology.start_watching(&config(&topology, 80))?;
        let web = topology.task("web-1")?;
        Ok(Self { topology, daemon, web })
    }

    fn text(&self, port: u16) -> String {
        config(&self.topology, port).to_string()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.topology.folder().join("main")
    }

    /// Waits until the gate admits this port and no longer the other one.
    fn await_port(&self, port: u16, other: u16) -> Result<()> {
        let outside = &self.topology.outside;
        until(&format!("port {port} is allowed"), || {
            Ok(probe(outside, at(WEB, port))? == Answer::Refused)
        })?;
        ensure!(probe(outside, at(WEB, other))? == Answer::Silence);
        Ok(())
    }

    fn said(&self, what: &str) -> usize {
        self.daemon.messages().iter().filter(|line| line.contains(what)).count()
    }
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, text)?;
    Ok(fs::rename(&next, file)?)
}

#[test]
fn whichever_way_a_file_changes_it_is_read() -> Result<()> {
    let watched = Watched::start()?;
    watched.await_port(80, 81)?;
    let (folder, file) = (watched.folder(), watched.folder().join(FILE));
    fs::write(&file, watched.text(81))?;
    watched.await_port(81, 80)?;
    replace(&file, &watched.text(82))?;
    watched.await_port(82, 81)?;
    // Another file in its place.
    fs::remove_file(&file)?;
    fs::write(folder.join("other.yaml"), watched.text(83))?;
    watched.await_port(83, 82)?;
    fs::remove_file(folder.join("other.yaml"))?;
    // As volumes of Kubernetes are switched.
    for (at, port) in [("..one", 84), ("..two", 85)] {
        fs::create_dir(folder.join(at))?;
        fs::write(folder.join(at).join(FILE), watched.text(port))?;
        symlink(at, folder.join("..next"))?;
        fs::rename(folder.join("..next"), folder.join("..data"))?;
        if port == 84 {
            symlink(Path::new("..data").join(FILE), &file)?;
        }
        watched.await_port(port, port - 1)?;
    }
    // The whole folder, twice.
    for port in [86, 87] {
        let next = folder.with_extension("next");
        fs::create_dir(&next)?;
        fs::write(next.join(FILE), watched.text(port))?;
        fs::rename(&folder, folder.with_extension(port.to_string()))?;
        fs::rename(&next, &folder)?;
        watched.await_port(port, port - 1)?;
    }
    fs::write(&file, watched.text(88))?;
    watched.await_port(88, 87)?;
    watched.daemon.stop()?;
    Ok(())
}

#[test]
fn a_broken_file_changes_nothing_and_one_that_is_written_slowly_is_read_once() -> Result<()> {
    let watched = Watched::start()?;
    let file = watched.folder().join(FILE);
    let _echo = TcpEcho::start(&watched.web, 80)?;
    fs::write(&file, "taskgate: v1\ngroups: [")?;
    watched.daemon.await_message(REFUSED)?;
    Client::connect(&watched.topology.outside, at(WEB, 80))?.finish()?;
    // A write every 100 ms; until the last one the file is not a valid configuration.
    let (text, begun) = (watched.text(81), Instant::now());
    let half = text.len() / 2;
    for _ in 0..8 {
        fs::write(&file, &text[..half])?;
        sleep(Duration::from_millis(100));
    }
    let refused = watched.said(REFUSED);
    fs::write(&file, &text)?;
    watched.await_port(81, 80)?;
    // Where the machine held the writer up, half a file may have been read, and refused.
    if begun.elapsed() < Duration::from_secs(3) {
        ensure!(refused == 1, "{refused} refused");
    }
    let reloaded = watched.said(RELOADED);
    // Reading a file, and the files that editors leave, are no changes.
    fs::read(&file)?;
    fs::write(watched.folder().join(".config.yaml.swp"), "x")?;
    fs::write(watched.folder().join("config.yaml~"), "x")?;
    sleep(Duration::from_millis(1500));
    ensure!(watched.said(RELOADED) == reloaded);
    watched.daemon.stop()?;
    Ok(())
}

#[test]
fn a_folder_that_was_away_is_read_when_it_is_back() -> Result<()> {
    let watched = Watched::start()?;
    watched.await_port(80, 81)?;
    let (folder, away) = (watched.folder(), watched.folder().with_extension("away"));
    fs::rename(&folder, &away)?;
    watched.daemon.await_message(REFUSED)?;
    fs::write(away.join(FILE), watched.text(81))?;
    fs::rename(&away, &folder)?;
    watched.await_port(81, 80)?;
    // The folder is away for so long that taskgate must search for it.
    fs::rename(&folder, &away)?;
    until("it is said to be away", || Ok(watched.said("cannot be watched") == 1))?;
    fs::write(away.join(FILE), watched.text(82))?;
    fs::rename(&away, &folder)?;
    watched.await_port(82, 81)?;
    fs::write(folder.join(FILE), watched.text(83))?;
    watched.await_port(83, 82)?;
    watched.daemon.stop()?;
    Ok(())
}

#[test]
fn what_is_switched_where_nothing_tells_of_it_is_found() -> Result<()> {
    let watched = Watched::start()?;
    watched.await_port(80, 81)?;
    let file = watched.folder().join(FILE);
    // A file that lies elsewhere.
    let elsewhere = watched.topology.folder().join("elsewhere.yaml");
    fs::write(&elsewhere, watched.text(81))?;
    fs::remove_file(&file)?;
    symlink(&elsewhere, &file)?;
    watched.await_port(81, 80)?;
    fs::write(&elsewhere, watched.text(82))?;
    watched.await_port(82, 81)?;
    watched.daemon.stop()?;
    Ok(())
}

#[test]
fn a_link_further_up_that_is_switched_is_found() -> Result<()> {
    let topology = Topology::new()?;
    // As a release is switched.
    let above = topology.folder().join("above");
    for (release, port) in [("one", 80), ("two", 81)] {
        let folder = above.join(release).join("taskgate");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(FILE), config(&topology, port).to_string())?;
    }
    symlink("one", above.join("current"))?;
    let daemon = topology.watch(&above.join("current/taskgate"))?;
    let web = topology.task("web-1")?;
    let watched = Watched { topology, daemon, web };
    watched.await_port(80, 81)?;
    symlink("two", above.join("next"))?;
    fs::rename(above.join("next"), above.join("current"))?;
    watched.await_port(81, 80)?;
    watched.daemon.stop()?;
    Ok(())
}
