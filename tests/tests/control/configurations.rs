//! Broken configurations, and files that change while they are read: the configuration in force is the old or the new
//! one, whole.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::{Value, json};
use testkit::{
    Config, E2eTest, Ledger, Topology, at,
    control::ControlSocket,
    daemon::{FILE, REFUSED, RELOADED},
    mutation::mutated,
    random::Random,
    traffic::{Answer, probe},
};

use crate::{SERVER, WEB, server};

/// Whether the configuration in a folder is completely in force.
fn is_in_force(control: &ControlSocket, folder: &Path) -> Result<bool> {
    let differences = control.post("/v1/diff", &json!({ "config": folder }))?.ok()?;
    Ok(differences["model"]["changes"].as_array().is_some_and(Vec::is_empty))
}

fn folder_with(parent: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("t.yaml"), text)?;
    Ok(folder)
}

#[test]
fn of_two_hundred_mutated_ones_none_is_half_applied() -> Result<()> {
    const TEXTS: u32 = 200;
    const SEED: u64 = 0x6f6e_655f_6f72_0001;
    let topology = Topology::new()?;
    let web = topology.device("tg-web", &[WEB], true)?;
    let other = topology.device("tg-other", &["10.88.0.11"], true)?;
    let group =
        "ingress: [{ protocol: tcp, ports: [80, 90], from: any }, { protocol: tcp, ports: 91, from: [10.99.0.0/24] }]";
    // No namespace: a mutated name could make a namespace that another test uses.
    let config = Config::default()
        .group("web", group)
        .group(
            "other",
            "ingress: [{ protocol: tcp, ports: 80, from: [group:web] }], egress: []",
        )
        .device_task("web-1", "tg-web", &[WEB], &["web"])
        .device_task("other-1", "tg-other", &["10.88.0.11"], &["other", "web"]);
    let daemon = topology.start(&config)?;
    let control = ControlSocket::of(&topology.instance("main"));
    let probes = || -> Result<Vec<Answer>> {
        let ports = [80, 81, 91];
        ports
            .iter()
            .map(|port| probe(&topology.outside, at(WEB, *port)))
            .collect()
    };
    let text = config.to_string();
    let last = folder_with(topology.folder(), "last", &text)?;
    let next = folder_with(topology.folder(), "next", &text)?;
    let mut random = Random::new(SEED);
    let mut answers = probes()?;
    let mut generation = 1;
    let (mut taken, mut refused) = (0, 0);
    for number in 0..TEXTS {
        let tried = mutated(&text, &mut random);
        folder_with(topology.folder(), "next", &tried)?;
        let answer = control.post("/v1/apply", &json!({ "config": next }))?;
        let status = control.get("/v1/status")?.ok()?;
        if answer.status == 200 {
            taken += 1;
            generation += 1;
            folder_with(topology.folder(), "last", &tried)?;
            if taken % 8 == 0 {
                answers = probes()?;
            }
        } else {
            refused += 1;
            let problem = answer.problem(422)?;
            ensure!(problem["errors"][0]["file"].is_string(), "{problem} of\n{tried}");
        }
        ensure!(status["generation"] == generation, "text {number}: {status}");
        ensure!(is_in_force(&control, &last)?, "text {number} is half applied:\n{tried}");
        if answer.status != 200 && taken % 8 == 0 && refused % 8 == 0 {
            ensure!(
                probes()? == answers,
                "text {number}, which was refused, changed something:\n{tried}"
            );
        }
    }
    ensure!(taken > 10 && refused > 50, "{taken} taken, {refused} refused");
    // The first configuration again.
    folder_with(topology.folder(), "next", &text)?;
    control.post("/v1/apply", &json!({ "config": next }))?.ok()?;
    ensure!(probes()? == [Answer::Refused, Answer::Silence, Answer::Refused]);
    drop((web, other));
    daemon.stop()?;
    Ok(())
}

/// Files that are written in place, or replaced, while they are read, by clients and by signals.
#[test]
fn files_that_change_while_they_are_read_are_read_whole_or_refused() -> Result<()> {
    const ROUNDS: usize = 24;
    let test = E2eTest::start(server)?;
    let control = test.control();
    let text = |ports: std::ops::Range<u16>| {
        // A single object, half of which is invalid; long, so that reads and writes overlap.
        let groups = ports.map(|port| {
            let rules = SERVER.replace("80", &format!("[80, {port}]"));
            format!("{{ name: g{port}, {rules} }}")
        });
        let groups = groups.collect::<Vec<_>>().join(",\n  ");
        let (eni, namespace) = (Config::eni("web-1"), test.config.namespace("web-1"));
        format!(
            "{{ taskgate: v1, groups: [\n  {{ name: server, {SERVER} }},\n  {groups}],\n\
             tasks: [{{ name: web-1, eni: {eni}, namespace: {namespace}, addresses: [{WEB}], groups: [server] }}] }}\n"
        )
    };
    let texts = [text(1000..1300), text(3000..3150)];
    let folders = [
        folder_with(test.topology.folder(), "one", &texts[0])?,
        folder_with(test.topology.folder(), "two", &texts[1])?,
    ];
    let changing = folder_with(test.topology.folder(), "changing", &texts[0])?;
    control.post("/v1/apply", &json!({ "config": changing }))?.ok()?;
    let stop = AtomicBool::new(false);
    let (taken, refused) = thread::scope(|scope| -> Result<(usize, usize)> {
        let writer = scope.spawn(|| -> Result<()> {
            let file = changing.join("t.yaml");
            for round in 0.. {
                if stop.load(Relaxed) {
                    break;
                }
                let text = &texts[round % 2];
                if round % 3 == 0 {
                    let next = changing.join("t.next");
                    fs::write(&next, text)?;
                    fs::rename(&next, &file)?;
                } else {
                    // Truncated, and then written.
                    fs::write(&file, text)?;
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        let asked = (0..ROUNDS).try_fold((0, 0), |(taken, refused), round| -> Result<(usize, usize)> {
            if round % 2 == 0 {
                test.daemon.signal(Signal::SIGHUP)?;
            }
            let answer = control.call("POST", "/v1/apply", "")?;
            // A signal's configuration may come into force between two looks.
            let mut looks = folders.iter().cycle().take(10);
            let is_whole = looks.try_fold(false, |is, folder| {
                Ok::<_, anyhow::Error>(is || is_in_force(&control, folder)?)
            })?;
            ensure!(is_whole, "something else is in force than what was written");
            if answer.status == 200 {
                return Ok((taken + 1, refused));
            }
            answer.problem(422)?;
            Ok((taken, refused + 1))
        });
        stop.store(true, Relaxed);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        asked
    })?;
    ensure!(taken > 0, "{taken} taken, {refused} refused");
    fs::write(changing.join("t.yaml"), &texts[1])?;
    control.call("POST", "/v1/apply", "")?.ok()?;
    ensure!(is_in_force(&control, &folders[1])?);
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// An error that a client gets with status 422 is logged if a signal caused the reload, and does not block the daemon
/// either.
#[test]
fn a_signal_finds_what_is_no_configuration() -> Result<()> {
    let test = E2eTest::start(server)?;
    let file = test.topology.folder().join("main").join(FILE);
    let whole = fs::read_to_string(&file)?;
    let half = whole[..whole.len() - whole.len() / 3].to_owned();
    let odd: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("a pipe", &|| Ok(mkfifo(&file, Mode::S_IRWXU)?)),
        ("a link to itself", &|| Ok(symlink(FILE, &file)?)),
        ("a file of 1 GiB", &|| Ok(File::create(&file)?.set_len(1 << 30)?)),
        ("half a file", &|| Ok(fs::write(&file, &half)?)),
        ("nothing", &|| Ok(())),
    ];
    let told = |what: &str| test.daemon.messages().iter().filter(|line| line.contains(what)).count();
    for (number, (what, make)) in odd.into_iter().enumerate() {
        fs::remove_file(&file)?;
        make().context(what)?;
        test.daemon.signal(Signal::SIGHUP)?;
        testkit::netns::until(what, || Ok(told(REFUSED) == number + 1))?;
        let status = test.control().get("/v1/status")?.ok()?;
        ensure!(
            status["generation"] == 1 && status["last-apply"]["result"] == "refused",
            "{what}: {status}"
        );
        let errors = &status["last-apply"]["errors"];
        ensure!(
            errors.as_array().is_some_and(|errors| !errors.is_empty()),
            "{what}: {status}"
        );
        if what == "nothing" {
            fs::write(&file, &whole)?;
        }
    }
    test.daemon.signal(Signal::SIGHUP)?;
    testkit::netns::until("it is whole again", || Ok(told(RELOADED) == 1))?;
    let status: Value = test.control().get("/v1/status")?.ok()?;
    ensure!(status["healthy"] == true && status["generation"] == 2, "{status}");
    test.finish(&Ledger::default())?;
    Ok(())
}
