//! Malicious files: `check` reports their problems in a few lines, within limits on memory and CPU time.

#![allow(clippy::format_collect, reason = "the texts are made once")]

use std::{fmt::Write as _, fs, os::unix::fs::symlink, process::Command};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::support::Folder;

/// Limits: address space in KiB, including the program and its libraries, and CPU seconds of an unoptimised build.
const MEMORY: u32 = 512 << 10;
const SECONDS: u32 = 120;

/// Checks the folder under the limits. Returns the exit code and the messages.
fn check(folder: &Folder) -> (Option<i32>, String) {
    let inner = folder.command("check --config conf");
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("ulimit -v {MEMORY} && ulimit -t {SECONDS} && exec \"$0\" \"$@\""),
        ])
        .arg(inner.get_program())
        .args(inner.get_args());
    if let Some(current) = inner.get_current_dir() {
        command.current_dir(current);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The first line that `check` prints for a file.
fn told(name: &str, text: &str) -> String {
    let folder = Folder::new(&[(name, text)]);
    let (exit, said) = check(&folder);
    assert_eq!(exit, Some(3), "{said}");
    assert!(said.len() < 400_000, "{} bytes", said.len());
    said.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn files_that_stand_for_more_than_they_are() {
    let nested: String = (0..60_000).map(|number| format!("&a{number} [")).collect();
    let shallow: String = (0..60).map(|number| format!("&a{number} [")).collect();
    let anchors = format!("x: {shallow}{}{}\n", "y,".repeat(100_000), "]".repeat(60));
    let long = "z".repeat(1 << 20);
    let aliases: String = (0..2_000).map(|number| format!("k{number}: *a\n")).collect();
    let ports: Vec<String> = (1..60_000).map(|port| port.to_string()).collect();
    let peers: Vec<String> = (0..60_000_u32)
        .map(|peer| format!("10.0.{}.{}", peer / 256 % 256, peer % 256))
        .collect();
    let mut laughs = String::from("a0: &a0 x\n");
    for level in 1..30 {
        writeln!(
            laughs,
            "a{level}: &a{level} [{}]",
            format!("*a{},", level - 1).repeat(9)
        )
        .unwrap();
    }
    let mut answers = Vec::new();
    for (name, text, expected) in [
        (
            "nested.yaml",
            format!("x: {nested}"),
            "conf/nested.yaml:1:377: error: lists and objects are nested more than 64 deep; no configuration is",
        ),
        (
            "anchors.yaml",
            anchors,
            "conf/anchors.yaml:1:353: error: the aliases stand for more than 100000 values; write the values out",
        ),
        (
            "aliases.yaml",
            format!("a: &a {long}\n{aliases}"),
            "conf/aliases.yaml:17:6: error: the aliases stand for more than 16 MiB; write the values out",
        ),
        (
            "laughs.yaml",
            laughs,
            "conf/laughs.yaml:6:9: error: the aliases stand for more than 100000 values; write the values out",
        ),
        (
            "product.yaml",
            format!(
                "taskgate: v1\ngroups: [{{name: g, ingress: [{{protocol: tcp, ports: [{}], from: [{}]}}]}}]\n",
                ports.join(","),
                peers.join(",")
            ),
            "conf/product.yaml:2:30: error: the rule stands for 3599940000, one for each of its ports and peers; at most 10000 are read",
        ),
    ] {
        answers.push((told(name, &text), expected.to_owned()));
    }
    let (told, expected): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    assert_eq!(told, expected);
}

#[test]
fn files_that_are_large_or_deep() {
    let long = "z".repeat(20_000_000);
    let cut = "z".repeat(80);
    let keys: String = (0..300_000).fold(String::new(), |mut keys, key| {
        write!(keys, "\"k{key}\": 1, ").unwrap();
        keys
    });
    let mut answers = Vec::new();
    for (name, text, expected) in [
        (
            "long.yaml",
            long.clone(),
            format!(
                "conf/long.yaml:1:1: error: the file should be an object and is the single value `{cut}…`; write keys and values"
            ),
        ),
        (
            "name.json",
            format!(r#"{{"SecurityGroups": [{{"GroupId": "{long}"}}]}}"#),
            format!(
                "conf/name.json:1:33: error: `{cut}…` is longer than 255 bytes, or has control characters; keep the AWS CLI's output as it was printed"
            ),
        ),
        (
            "key.json",
            format!(r#"{{"taskgate": "v1", "{long}": 1}}"#),
            format!(
                "conf/key.json:1:20: error: the native form has no key `{cut}…`; its keys are `account`, `groups`, `prefix-lists`, `tasks`, `members`, `uplink`, `settings`, `flow-logs` and `metrics`, and those of the AWS CLI"
            ),
        ),
        (
            "protocol.yaml",
            format!("taskgate: v1\ngroups: [{{name: g, ingress: [{{protocol: {long}, from: any}}]}}]\n"),
            format!(
                "conf/protocol.yaml:2:41: error: `{cut}…` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255"
            ),
        ),
        (
            "deep.json",
            "[".repeat(10_000_000),
            String::from(
                "conf/deep.json:1:65: error: lists and objects are nested more than 64 deep; no configuration is",
            ),
        ),
        (
            "keys.json",
            format!("{{{keys}\"x\": 1}}"),
            String::from(
                "conf/keys.json:1:10892: error: the object has more than 1000 keys; no configuration has so many",
            ),
        ),
        (
            "errors.json",
            format!(r#"{{"SecurityGroups": [{}1]}}"#, "1,".repeat(300_000)),
            String::from(
                "conf/errors.json:1:21: error: a security group should be an object and is a single value; write keys and values",
            ),
        ),
        (
            "terminal.yaml",
            String::from("taskgate: v1\naccount: \"\\e]0;owned\\a\"\n"),
            String::from(
                "conf/terminal.yaml:2:10: error: `\\u{1b}]0;owned\\u{7}` is no account; write twelve digits, such as `123456789012`",
            ),
        ),
    ] {
        answers.push((told(name, &text), expected));
    }
    let (told, expected): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    assert_eq!(told, expected);
}

/// Each list is read in time that is linear in its size, not quadratic.
#[test]
fn long_lists_are_read_in_time() {
    let join = |items: Vec<String>| items.join(",");
    let range = |count: u32| (0..count).map(|number| std::net::Ipv4Addr::from(0x0a00_0000 + number));
    let cidrs = join(range(100_000).map(|ip| format!(r#""{ip}/32""#)).collect());
    let rules = join(range(20_000).map(|ip| format!(r#"{{"CidrIp": "{ip}/32"}}"#)).collect());
    let listed: Vec<String> = range(20_000)
        .enumerate()
        .map(|(at, ip)| {
            format!(
                r#"{{"SecurityGroupRuleId": "sgr-{at}", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "-1", "CidrIpv4": "{ip}/32"}}"#
            )
        })
        .rev()
        .collect();
    let addresses = join(
        range(50_000)
            .map(|ip| format!(r#"{{"PrivateIpAddress": "{ip}"}}"#))
            .collect(),
    );
    let groups = join(
        (0..50_000)
            .map(|group| format!(r#"{{"GroupId": "sg-{group}"}}"#))
            .collect(),
    );
    let group = format!(
        r#"{{"SecurityGroups": [{{"GroupId": "sg-1", "GroupName": "g", "IpPermissions": [{{"IpProtocol": "-1", "IpRanges": [{rules}]}}], "IpPermissionsEgress": []}}]}}"#
    );
    let lists = format!(
        r#"{{"PrefixLists": [{{"PrefixListId": "pl-1", "Cidrs": [{cidrs}]}}, {{"PrefixListId": "pl-1", "Cidrs": [{cidrs}]}}]}}"#
    );
    let eni = format!(
        r#"{{"NetworkInterfaces": [{{"NetworkInterfaceId": "eni-1", "PrivateIpAddresses": [{addresses}], "Groups": [{groups}]}}]}}"#
    );
    let folder = Folder::new(&[
        ("a.json", &group),
        ("b.json", &group),
        (
            "c.json",
            &format!(r#"{{"SecurityGroupRules": [{}]}}"#, listed.join(",")),
        ),
        ("d.json", &lists),
        ("e.json", &eni),
    ]);
    let (exit, said) = check(&folder);
    assert_eq!(exit, Some(3));
    let errors: Vec<&str> = said.lines().filter(|line| line.contains(" error: ")).collect();
    assert_eq!(
        errors,
        ["conf/e.json:1:24: error: `eni-1` has 50000 groups; an ENI has at most 16"]
    );
}

#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new(&[("a.yaml", "taskgate: v1\n")]);
    let conf = folder.command("check").get_current_dir().unwrap().join("conf");
    // Reading any of these files would block, or never end.
    mkfifo(&conf.join("fifo.json"), Mode::S_IRWXU).unwrap();
    for (name, target) in [
        ("kmsg.json", "/proc/kmsg"),
        ("memory.yaml", "/proc/self/mem"),
        ("tty.yaml", "/dev/zero"),
        ("pipe.yaml", "fifo.json"),
        ("loop.yaml", "loop.yaml"),
    ] {
        symlink(target, conf.join(name)).unwrap();
    }
    let large = fs::File::create(conf.join("large.json")).unwrap();
    large.set_len(300 << 20).unwrap();
    let (exit, said) = check(&folder);
    let hint = "make it readable, or take it away";
    let pipe = "the file cannot be read: it is a pipe, a socket or a device";
    let empty = "the file is empty; put AWS CLI output or `taskgate: v1` into it, or take it away";
    assert_eq!(
        (exit, said),
        (
            Some(3),
            format!(
                "conf/fifo.json: error: {pipe}; {hint}\n\
                 conf/kmsg.json: error: {empty}\n\
                 conf/large.json: error: the file cannot be read: it has 300 MiB, at most 256 are read; {hint}\n\
                 conf/loop.yaml: error: the file cannot be read: Too many levels of symbolic links (os error 40); {hint}\n\
                 conf/memory.yaml: error: {empty}\n\
                 conf/pipe.yaml: error: {pipe}; {hint}\n\
                 conf/tty.yaml: error: {pipe}; {hint}\n\
                 the configuration is refused: 7 errors, 0 warnings\n"
            )
        )
    );
}
