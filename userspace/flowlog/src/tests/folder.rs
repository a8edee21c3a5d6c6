//! Folder sinks, with files as AWS delivers them to S3.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use taskgate_model::{FlowLog, LogFolder};

use super::files::{Folder, batch, below, delivered, folder, next, text};
use crate::{FolderSink, Mark, NextWrite, Sink as _};

/// 2026-01-02, 15:00 UTC.
const AFTERNOON: u64 = 1_767_366_000;

fn sink(folder: &LogFolder, number: u64) -> FolderSink {
    FolderSink::new(folder, &FlowLog::default(), "default", number)
}

fn line(end: u64) -> String {
    format!(
        "2 111122223333 eni-0123456789abcdef0 10.0.1.5 10.0.1.20 49152 443 6 12 3480 {} {end} ACCEPT OK\n",
        end - 60
    )
}

fn names(folder: &Path) -> Vec<String> {
    let files = below(folder, "");
    let name = |path: &Path| path.strip_prefix(folder).expect("below it").display().to_string();
    files.iter().map(|path| name(path)).collect()
}

#[test]
fn folders_and_names_are_as_aws_has_them() {
    for (hive_partitions, hourly_partitions, want) in [
        (false, false, "AWSLogs/111122223333/vpcflowlogs/eu-west-1/2026/01/02/"),
        (false, true, "AWSLogs/111122223333/vpcflowlogs/eu-west-1/2026/01/02/15/"),
        (
            true,
            false,
            "AWSLogs/aws-account-id=111122223333/aws-service=vpcflowlogs/aws-region=eu-west-1/year=2026/month=01/day=02/",
        ),
        (
            true,
            true,
            "AWSLogs/aws-account-id=111122223333/aws-service=vpcflowlogs/aws-region=eu-west-1/year=2026/month=01/day=02/hour=15/",
        ),
    ] {
        let place = Folder::new();
        let log = LogFolder {
            hive_partitions,
            hourly_partitions,
            ..folder(&place.0)
        };
        let end = AFTERNOON + 5 * 60 + 299;
        let batches = [batch(end, line(end))];
        let mut sink = sink(&log, 1);
        sink.prepare(&next(&batches, 0, Mark::default())).expect("it is there");
        let written = sink.write(&next(&batches, 0, Mark::default())).expect("delivered");
        assert_eq!(written, batches[0].lines.len());
        let [name] = &names(&place.0)[..] else {
            panic!("one file")
        };
        let file = name.strip_prefix(want).expect(want);
        let hash = file
            .strip_prefix("111122223333_vpcflowlogs_eu-west-1_fl-0123456789abcdef0_20260102T1505Z_")
            .and_then(|rest| rest.strip_suffix(".log.gz"))
            .expect(file);
        assert!(
            hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{hash}"
        );
        let path = place.0.join(name);
        assert_eq!(
            text(&path),
            format!(
                "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status\n{}",
                line(end)
            )
        );
        assert_eq!(
            fs::metadata(&path).expect("a file").permissions().mode() & 0o7777,
            0o640
        );
    }
}

#[test]
fn windows_are_in_the_file_of_their_end() {
    let place = Folder::new();
    let mut sink = sink(&folder(&place.0), 1);
    let mut batches: Vec<_> = [0, 60, 299, 300, 599, 900]
        .map(|later| batch(AFTERNOON + later, line(AFTERNOON + later)))
        .into();
    let all: String = batches
        .iter()
        .map(|batch| String::from_utf8_lossy(&batch.lines).into_owned())
        .collect();
    let mut position = 0;
    let mut counts = Vec::new();
    while !batches.is_empty() {
        let mut written = sink
            .write(&next(&batches, position, Mark::default()))
            .expect("delivered");
        position += written as u64;
        let before = batches.len();
        while written != 0 {
            written -= batches.remove(0).lines.len();
        }
        counts.push(before - batches.len());
    }
    assert_eq!(counts, [3, 2, 1]);
    assert_eq!(String::from_utf8(delivered(&place.0)).expect("text"), all);
}

#[test]
fn a_file_waits_for_the_end_of_its_time() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let place = Folder::new();
    let mut sink = sink(&folder(&place.0), 1);
    // The clock may reach the next period during the test, so the lines are of a period that ends later.
    let end = now + 300;
    let batches = [batch(end, line(end)), batch(end, line(end))];
    let one = next(&batches, 0, Mark::default());
    assert_eq!(sink.write(&one).expect("it waits"), 0);
    assert_eq!(names(&place.0), [""; 0]);
    let length = one.bytes;
    assert_eq!(
        sink.write(&NextWrite { ending: true, ..one }).expect("delivered"),
        length
    );
    // A file is written early once enough bytes wait.
    let full = NextWrite {
        bytes: 8 << 20,
        position: length as u64,
        ..one
    };
    assert_eq!(sink.write(&full).expect("delivered"), length);
    assert_eq!(names(&place.0).len(), 2);
}

#[test]
fn what_is_written_again_takes_its_own_place() {
    let place = Folder::new();
    let log = folder(&place.0);
    let first = [batch(AFTERNOON, line(AFTERNOON))];
    let more = [first[0].clone(), batch(AFTERNOON + 60, line(AFTERNOON + 60))];
    sink(&log, 1)
        .write(&next(&first, 700, Mark::default()))
        .expect("delivered");
    // The process was killed before the confirmation.
    let again = names(&place.0);
    sink(&log, 1)
        .write(&next(&more, 700, Mark::default()))
        .expect("delivered");
    assert_eq!(names(&place.0), again);
    assert_eq!(delivered(&place.0), [&first[0].lines[..], &more[1].lines[..]].concat());
    // A later position, another instance, another flow log or another start give another name.
    let other = LogFolder {
        id: String::from("fl-other"),
        ..log.clone()
    };
    let elsewhere = FolderSink::new(&log, &FlowLog::default(), "other", 1);
    for (mut sink, position) in [
        (sink(&log, 1), 800),
        (sink(&log, 2), 700),
        (elsewhere, 700),
        (sink(&other, 1), 700),
    ] {
        let before = names(&place.0).len();
        sink.write(&next(&first, position, Mark::default())).expect("delivered");
        assert_eq!(names(&place.0).len(), before + 1);
    }
}

#[test]
fn a_folder_that_is_not_there_is_not_made() {
    let place = Folder::new();
    let missing = place.0.join("missing");
    let error = sink(&folder(&missing), 1)
        .prepare(&next(&[], 0, Mark::default()))
        .expect_err("no folder");
    assert_eq!(
        error.to_string(),
        format!(
            "there is no folder `{}`: make it, it is looked for again and again",
            missing.display()
        )
    );
    // A file in the way is an error, and no partial file is left.
    fs::write(place.0.join("AWSLogs"), "").expect("a file");
    let batches = [batch(AFTERNOON, line(AFTERNOON))];
    sink(&folder(&place.0), 1)
        .write(&next(&batches, 0, Mark::default()))
        .expect_err("a file is in the way");
    assert_eq!(names(&place.0), ["AWSLogs"]);
}
