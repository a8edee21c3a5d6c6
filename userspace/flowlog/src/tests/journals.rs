//! Journals that are refused, and the collector's state in a journal.

use std::{
    fs,
    path::{Path, PathBuf},
};

use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
    },
    wire::TCP,
};
use taskgate_model::FlowLog;

use super::{
    BEGIN, WEB,
    kernel::{Flow, Kernel, SECOND},
    timeouts, web,
};
use crate::{
    Journal, JournalError, Label, LoggedEni, NextWrite, RecordError, RecordNames, RecordSettings, Recorder,
    RecorderStart, Refusal, Sink, SinkError, Unlogged, outputs::Sinks,
};

/// A sink that would take all lines.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        Ok(next.lines().len())
    }
}

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taskgate-journal-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn begin(kernel: &mut Kernel, journal: Journal) -> (Recorder, Vec<RecordError>) {
    begin_with_names(kernel, journal, RecordNames::default())
}

fn begin_with_names(kernel: &mut Kernel, journal: Journal, names: RecordNames) -> (Recorder, Vec<RecordError>) {
    let settings = RecordSettings {
        logs: vec![FlowLog::default()],
        unlogged: Unlogged::default(),
        timeouts: timeouts(),
    };
    let start = RecorderStart {
        now: BEGIN,
        window: 5,
        most: 1000,
    };
    let sinks = Sinks {
        open: Box::new(|_, _| Ok((String::from("a test"), Box::new(Nowhere)))),
        // Nothing is written.
        start: Box::new(|_| Ok(())),
        number: Box::new(|| 3),
    };
    let begun = Recorder::begin_with(kernel, journal, start, (settings, names), sinks);
    let (mut recorder, errors) = begun.expect("it begins");
    let enis = [(WEB, LoggedEni::new(web(), "111122223333"))].into();
    assert!(recorder.bind(kernel, enis).is_empty());
    (recorder, errors)
}

fn journal(path: &Path) -> Journal {
    Journal::of_boot(path, [7; 32], [1; 16])
}

/// Why a journal is refused after `change` of its bytes, or for tables and a boot with these ids; `None`: it is used.
fn refused(name: &str, change: impl Fn(&mut Vec<u8>), identity: u8, boot: u8) -> Option<Refusal> {
    let folder = Folder::new(name);
    let path = folder.journal();
    let mut kernel = Kernel::new();
    let flow = Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432));
    let (mut recorder, errors) = begin(&mut kernel, journal(&path));
    assert!(errors.is_empty(), "{errors:?}");
    kernel.state.pass(&flow, Egress, 60, 2);
    recorder.close_window(&mut kernel, BEGIN + 60).expect("a window");
    drop(recorder);
    let mut bytes = fs::read(&path).expect("a journal");
    change(&mut bytes);
    fs::write(&path, bytes).expect("it is written");

    let other = Journal::of_boot(&path, [identity; 32], [boot; 16]);
    let (mut recorder, errors) = begin(&mut kernel, other);
    let mut errors = errors.into_iter();
    let why = match errors.next()? {
        RecordError::BeginAnew(JournalError::Refused { why, .. }) => why,
        error => panic!("{error:?}"),
    };
    // The tables' current contents are in no record from now on, and this is reported.
    let unknown = errors.next();
    assert!(
        matches!(unknown, Some(RecordError::Unknown { flows: 1, packets: 1 })),
        "{unknown:?}"
    );
    let window = recorder.close_records(&mut kernel, BEGIN + 60).expect("a window");
    let lacking: Vec<_> = window.losses.iter().map(|loss| (loss.passed, loss.denied)).collect();
    assert_eq!((window.records.len(), lacking), (0, vec![(1, 0)]));
    // From then on there is a valid journal.
    let (_, errors) = begin(&mut kernel, Journal::of_boot(&path, [identity; 32], [boot; 16]));
    assert!(errors.is_empty(), "{errors:?}");
    Some(why)
}

#[test]
fn a_journal_of_something_else_is_refused_and_says_so() {
    let keep = |_: &mut Vec<u8>| {};
    assert_eq!(refused("kept", keep, 7, 1), None);
    assert_eq!(refused("tables", keep, 8, 1), Some(Refusal::Tables));
    assert_eq!(refused("boot", keep, 7, 2), Some(Refusal::Boot));
    let format = |bytes: &mut Vec<u8>| bytes[8] += 1;
    assert_eq!(
        refused("format", format, 7, 1),
        Some(Refusal::Format { found: 4, known: 3 })
    );
    for (name, change) in [
        ("empty", (|bytes| bytes.clear()) as fn(&mut Vec<u8>)),
        ("short", |bytes| bytes.truncate(63)),
        ("magic", |bytes| bytes[0] = b'T'),
    ] {
        assert_eq!(refused(name, change, 7, 1), Some(Refusal::Foreign), "{name}");
    }
    for (name, change) in [
        ("position", (|bytes| bytes[64] ^= 1) as fn(&mut Vec<u8>)),
        ("places", |bytes| bytes[12] += 1),
        ("header-only", |bytes| bytes.truncate(128)),
        ("cut", |bytes| bytes.truncate(168)),
        ("length", |bytes| bytes[128] -= 1),
        ("sum", |bytes| bytes[136] ^= 1),
        ("body", |bytes| bytes[148] ^= 1),
    ] {
        assert_eq!(refused(name, change, 7, 1), Some(Refusal::Damaged), "{name}");
    }
}

/// A change of a journal's contents has to raise `FORMAT` in `journal/layout.rs` and update the checksum here.
#[test]
fn a_journal_of_this_format_has_these_bytes() {
    let folder = Folder::new("bytes");
    let path = folder.journal();
    let mut kernel = Kernel::new();
    let flow = Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432));
    let (mut recorder, _) = begin(&mut kernel, journal(&path));
    kernel.state.pass(&flow, Egress, 60, 2);
    kernel.state.deny(&flow, Egress, DropReason::NoRule, 70, 2);
    recorder.close_window(&mut kernel, BEGIN + 60).expect("a window");
    kernel.state.deny(&flow, Egress, DropReason::NoRule, 71, 2);
    kernel.state.clock += SECOND;
    assert!(recorder.free_denials(&mut kernel).is_empty());
    let bytes = fs::read(&path).expect("a journal");
    assert_eq!((bytes[8], crc32fast::hash(&bytes[64..])), (3, 741_806_875));
}

#[test]
fn a_scan_does_not_make_it_grow_without_end() {
    let folder = Folder::new("scan");
    let path = folder.journal();
    let mut kernel = Kernel::new();
    let (mut recorder, _) = begin(&mut kernel, journal(&path));
    let mut longest = 0;
    for port in 1..=2000 {
        let flow = Flow::new(WEB, TCP, ("10.0.1.15", port), ("10.0.1.20", 5432));
        kernel.state.deny(&flow, Ingress, DropReason::NoRule, 60, 2);
        if port % 10 == 0 {
            kernel.state.clock += SECOND;
            assert!(recorder.free_denials(&mut kernel).is_empty());
            longest = longest.max(fs::metadata(&path).expect("a journal").len());
        }
    }
    // A thousand held records, and some changes.
    assert!((20_000..40_000).contains(&longest), "{longest}");
    let (next, errors) = begin(&mut kernel, journal(&path));
    assert!(errors.is_empty(), "{errors:?}");
    let windows = [recorder, next].map(|mut one| one.close_records(&mut kernel, BEGIN + 60).expect("a window"));
    let [held, resumed] = windows;
    assert_eq!(held.records, resumed.records);
    assert_eq!(held.losses, resumed.losses);
    let sum: u64 = held.records.iter().map(|record| record.count.packets).sum();
    assert_eq!(sum + held.losses[0].denied, 2000);
}

/// The last change may be truncated: its process was killed while writing.
#[test]
fn changes_after_the_last_whole_one_were_not_made() {
    for cut in 0..40 {
        let folder = Folder::new(&format!("changes-{cut}"));
        let path = folder.journal();
        let mut kernel = Kernel::new();
        let (recorder, _) = begin(&mut kernel, journal(&path));
        drop(recorder);
        let mut bytes = fs::read(&path).expect("a journal");
        // The slot's ENI is such a change.
        let length = bytes.len();
        bytes.truncate(length - cut);
        fs::write(&path, bytes).expect("it is written");
        let (_, errors) = begin(&mut kernel, journal(&path));
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_said_and_holds_nothing_up() {
    let mut kernel = Kernel::new();
    let nowhere = Path::new("/nowhere/journal");
    let (mut recorder, errors) = begin(&mut kernel, journal(nowhere));
    assert!(matches!(errors[..], [RecordError::Journal(_)]), "{errors:?}");
    let closed = recorder.close_window(&mut kernel, BEGIN + 60).expect("a window");
    assert_eq!(closed.end, BEGIN + 60);
    assert_eq!(
        closed.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "the journal of flow records is not written: a taskgate that is killed now leaves records twice, or leaves some out"
        ]
    );
}

#[test]
fn the_journal_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new("mode");
    let mut kernel = Kernel::new();
    let _begun = begin(&mut kernel, journal(&folder.journal()));
    let mode = fs::metadata(folder.journal()).expect("a journal").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(folder.0.join("journal.new"), "half written").expect("a file");
    Journal::remove(&folder.journal()).expect("it is there");
    Journal::remove(&folder.journal()).expect("it is gone");
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 0);
}

/// A SYN is in the record of its own window, even if the next process closes that, and flags of earlier windows do not reappear.
#[test]
fn flags_go_on_by_the_windows_parity() {
    let folder = Folder::new("flags");
    let flow = Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432));
    let mut kernel = Kernel::new();
    let mut told = Vec::new();
    let (mut recorder, _) = begin(&mut kernel, journal(&folder.journal()));
    for (minute, flags) in [(1, 2), (2, 0x10), (3, 1), (4, 0x10), (5, 2), (6, 0x10)] {
        kernel.state.pass(&flow, Egress, 40, flags);
        // The open window gets the saved number again, whatever number the kernel had.
        drop(recorder);
        kernel.state.window += u32::from(minute == 3);
        recorder = begin(&mut kernel, journal(&folder.journal())).0;
        assert_eq!(kernel.state.window, 4 + minute);
        let window = recorder
            .close_records(&mut kernel, BEGIN + u64::from(60 * minute))
            .expect("a window");
        told.push((
            window.number,
            window.records[0].count.packets,
            window.records[0].tcp_flags,
        ));
    }
    assert_eq!(
        told,
        [(5, 1, 2), (6, 1, 0), (7, 1, 1), (8, 1, 0), (9, 1, 2), (10, 1, 0)]
    );
}

/// The attribution outlives the process, of waiting records and of entries that were removed between two windows.
#[test]
fn records_keep_their_rule_and_peer() {
    let folder = Folder::new("names");
    let path = folder.journal();
    let mut kernel = Kernel::new();
    let (mut recorder, _) = begin_with_names(&mut kernel, journal(&path), super::formats::names());
    for port in [1, 2] {
        let flow = Flow::new(WEB, TCP, ("10.0.1.15", port), ("10.0.1.20", 5432));
        kernel.state.pass(&flow, Egress, 60, 2);
        let conn = kernel.state.conn(&flow);
        (conn.rule, conn.generation) = (port.into(), port);
        if port == 1 {
            // This entry is in the journal as a record, the other one as a change.
            kernel.state.clock += 1000 * SECOND;
            assert!(recorder.gc(&mut kernel, true).is_empty());
            assert!(recorder.bind(&mut kernel, [].into()).is_empty());
        }
    }
    kernel.state.clock += 1000 * SECOND;
    let web = LoggedEni::new(web(), "111122223333");
    assert!(recorder.bind(&mut kernel, [(WEB, web)].into()).is_empty());
    assert!(recorder.gc(&mut kernel, true).is_empty());
    drop(recorder);
    let (mut recorder, errors) = begin_with_names(&mut kernel, journal(&path), super::formats::names());
    assert!(errors.is_empty(), "{errors:?}");
    let window = recorder.close_records(&mut kernel, BEGIN + 60).expect("a window");
    let told: Vec<_> = window.records.iter().map(|record| &record.attribution).collect();
    let said = told.iter().map(|told| {
        let peer = told.peer.as_ref().and_then(|peer| peer.task.as_ref());
        let rule = told.rule().map(|rule| rule.rule.raw());
        (rule, told.generation, peer.map(Label::raw), told.last - BEGIN * 1000)
    });
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            (Some("web/egress/1"), 0x1_0001, Some("db-1"), 0),
            (Some("sgr-2"), 0x1_0002, Some("db-1"), 1_000_000),
        ]
    );
}
