//! Tests that hold for every command.

use std::{io, process::Stdio};

use super::support::{Answer, Folder};

const CONFIG: &str = "{taskgate: v1, groups: [{name: web}], \
    tasks: [{name: web-1, device: veth1, addresses: [10.0.0.1], groups: [web]}]}";

#[test]
fn usage_errors_exit_with_2() {
    let folder = Folder::new(&[("t.yaml", CONFIG)]);
    for arguments in [
        "",
        "nonsense",
        "connections --port 99999",
        "diff now",
        "check --now",
        "check --output xml",
        "check --log-level loud",
        "check --instance a/b",
        "check --instance .",
        "run --interval 0",
        "run --interval 601",
        "explain --from web-1",
        "explain --from web-1 --to web-1 --protocol all",
        "explain --from web-1 --to web-1 --protocol 256",
        "explain --from web-1 --to web-1 --protocol icmp -4 -6",
    ] {
        let Answer { out, err, exit } = folder.run(arguments);
        assert_eq!((out.as_str(), exit), ("", Some(2)), "{arguments}");
        assert!(!err.is_empty(), "{arguments}");
    }
}

#[test]
fn help_and_version_are_data() {
    let folder = Folder::new(&[]);
    for (arguments, word) in [
        ("--help", "explain"),
        ("explain --help", "--fail-on-deny"),
        ("--version", "taskgate 0."),
        ("check --version", "taskgate"),
    ] {
        let Answer { out, err, exit } = folder.run(arguments);
        assert_eq!((err.as_str(), exit), ("", Some(0)), "{arguments}");
        assert!(out.contains(word), "{arguments}: {out}");
    }
}

#[test]
fn the_folder_comes_from_the_option_before_the_environment() {
    let folder = Folder::new(&[("t.yaml", CONFIG)]);
    let exits = |command: &mut std::process::Command| command.output().unwrap().status.code();
    assert_eq!(exits(&mut folder.command("check --config conf")), Some(0));
    assert_eq!(exits(folder.command("check").env("TASKGATE_CONFIG", "conf")), Some(0));
    assert_eq!(
        exits(folder.command("--config conf check").env("TASKGATE_CONFIG", "nowhere")),
        Some(0)
    );
    assert_eq!(
        exits(folder.command("check").env("TASKGATE_CONFIG", "nowhere")),
        Some(3)
    );
}

/// A pipe without a reader.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn nobody_reading_is_no_failure() {
    let folder = Folder::new(&[("t.yaml", CONFIG)]);
    let explain = "explain --from web-1 --to 192.0.2.1 --protocol tcp --port 80 --fail-on-deny --config conf";
    for (arguments, expected) in [
        ("check --config conf", 0),
        ("check -o json --config conf", 0),
        ("check --config nowhere", 3),
        (explain, 0),
        ("--help", 0),
        ("nonsense", 2),
    ] {
        let status = folder
            .command(arguments)
            .stdout(closed())
            .stderr(closed())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(expected), "{arguments}");
    }
}

/// README shows the actual output of `check` and `explain` on the examples.
#[test]
fn the_readme_shows_what_is_said() {
    let readme = include_str!("../../../../README.md");
    let folder = Folder::new(&[]);
    let mut shown = 0;
    for block in readme.split("```console\n$ taskgate ").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let (arguments, answer) = block.split_once('\n').unwrap();
        if !arguments.contains("--config examples/") {
            continue;
        }
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let output = folder.command(arguments).current_dir(root).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8(said).unwrap(), answer, "{arguments}");
        shown += 1;
    }
    assert_eq!(shown, 3);
}
