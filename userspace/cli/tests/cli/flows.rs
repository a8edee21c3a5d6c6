//! `taskgate flows`.

use std::{fs::File, io::Write as _, path::Path, process::Stdio};

use flate2::{Compression, write::GzEncoder};

use super::support::Folder;

const DEFAULT: &str = "\
2 123456789012 eni-web 10.0.1.15 10.0.1.20 49152 5432 6 5 300 1767225600 1767225660 ACCEPT OK
2 123456789012 eni-db 10.0.9.9 10.0.1.20 50000 22 6 1 60 1767225660 1767225720 REJECT OK
2 123456789012 eni-db 2001:db8::9 2001:db8::20 0 0 58 2 208 1767225660 1767225720 ACCEPT OK
2 123456789012 eni-db - - - - - - - 1767225720 1767225780 - SKIPDATA
";
const CUSTOM: &str = "\
srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status flow-direction taskgate-task taskgate-group taskgate-rule taskgate-reason taskgate-peer-task taskgate-peer-groups taskgate-same-host
10.0.1.15 10.0.1.20 49152 5432 6 5 300 1767225600 1767225660 ACCEPT OK ingress db-1 db db/ingress/1 - web-1 web,my%20ops true
10.0.9.9 10.0.1.20 50000 22 6 1 60 1767225660 1767225720 REJECT OK ingress db-1 - - no-rule - - false
10.0.1.15 10.0.0.2 40000 53 17 1 70 1767225600 1767225660 ACCEPT OK egress web-1 - - exempt - - false
10.0.1.15 10.0.5.5 40001 443 6 9 900 1767225600 1767225660 ACCEPT OK egress web-1 web sgr-0123456789abcdef0 - - - false
";
const JSON: &str = r#"{"version":7,"srcaddr":"10.0.1.15","dstaddr":"10.0.1.20","srcport":49152,"dstport":5432,"protocol":6,"packets":5,"bytes":300,"start":1767225600,"end":1767225660,"action":"ACCEPT","log-status":"OK","flow-direction":"egress","taskgate-task":"web-1","taskgate-group":"my web","taskgate-rule":"r","taskgate-reason":null,"taskgate-peer-task":"db-1","taskgate-peer-groups":["db"],"taskgate-same-host":true}
"#;

#[test]
fn stored_records_are_shown_and_filtered() {
    let folder = Folder::new(&[("default.log", DEFAULT), ("custom.log", CUSTOM), ("flows.json", JSON)]);
    insta::assert_snapshot!(folder.transcript(&[
        "flows --input conf/default.log",
        "flows --input conf/custom.log",
        "flows --input conf/flows.json",
        "flows --input conf/custom.log -o table",
        "flows --input conf/custom.log -o json --to-port 443",
        "flows --input conf/flows.json -o vpc",
        "flows --input conf/custom.log -o ${srcaddr}",
        "flows --input conf/custom.log --task web-1 --not --protocol udp --not --port 443",
        "flows --input conf/custom.log --verdict reject --port 1-1023",
        "flows --input conf/default.log --last 1",
        "flows --input conf/default.log --last 0",
        "flows --input conf/default.log --since 2026-01-01T00:02:00Z",
        "flows --input conf/default.log --until 1767225660",
        "flows --input conf/default.log --since 1h",
    ]));
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let cut = "2 123456789012 eni-web 10.0.1.15\n";
    let folder = Folder::new(&[
        ("other.log", "10.0.1.15 10.0.1.20 ACCEPT\n"),
        ("cut.log", &format!("{DEFAULT}{cut}")),
    ]);
    insta::assert_snapshot!(folder.transcript(&[
        "flows",
        "flows --input nowhere",
        "flows --input conf/other.log",
        "flows --input conf/cut.log --port 5432",
        "flows --input conf/cut.log --port http",
        "flows --input conf/cut.log --port 1 --not",
        "flows --input conf/cut.log --since yesterday",
        "flows --input conf/cut.log -o csv",
        "flows --input conf/cut.log --format ${srcadr}",
    ]));
}

/// A folder as AWS's delivery leaves it, and standard input, are read like a file.
#[test]
fn folders_gzip_and_standard_input_are_read() {
    let folder = Folder::new(&[]);
    let root = folder.path().join("records");
    for (day, line) in ["02", "01"].into_iter().zip(DEFAULT.lines()) {
        let below = root.join(format!("AWSLogs/123456789012/vpcflowlogs/eu-west-1/2026/01/{day}"));
        std::fs::create_dir_all(&below).unwrap();
        let file = File::create(below.join("flows.log.gz")).unwrap();
        let mut gzip = GzEncoder::new(file, Compression::fast());
        let header = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status";
        write!(gzip, "{header}\n{line}\n").unwrap();
        gzip.finish().unwrap();
    }
    std::os::unix::fs::symlink(".", root.join("AWSLogs/circle")).unwrap();
    let answer = folder.run("flows --input records -o ${dstport}");
    assert_eq!((&*answer.out, answer.exit), ("22\n5432\n", Some(0)), "{}", answer.err);

    let mut child = folder
        .command("flows --input - --verdict accept -o ${dstport}")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(DEFAULT.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "5432\n0\n");
}

#[test]
fn a_gzip_file_that_is_cut_is_said() {
    let folder = Folder::new(&[]);
    let path = folder.path().join("cut.gz");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(DEFAULT.repeat(1000).as_bytes()).unwrap();
    let whole = gzip.finish().unwrap();
    std::fs::write(Path::new(&path), &whole[..whole.len() / 2]).unwrap();
    let answer = folder.run("flows --input cut.gz -o ${dstport}");
    assert_eq!(answer.exit, Some(1));
    assert!(
        answer.out.starts_with("5432\n22\n") && answer.err.starts_with("error: cannot read `cut.gz`: "),
        "{}",
        answer.err
    );
}
