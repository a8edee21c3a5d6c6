//! A recorder that is killed and started again, over tables and files that outlive it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use taskgate_model::{Destination, FlowLog, LogFile, Rotate};

use super::{
    BEGIN, DB, WEB, db, eni, files,
    kernel::{Kernel, SECOND, Step},
    random::{Name, Packet},
    reader, timeouts, web,
};
use crate::{
    Journal, LoggedEni, NextWrite, RecordError, RecordNames, RecordSettings, Recorder, RecorderStart, Sink, SinkError,
    Unlogged,
    fault::{self, Fault, Killed},
    outputs::Sinks,
    queue::{Attempt, Writer},
    sink::{self, whole_lines},
};

/// The ENIs that have slot [`WEB`] in turn, with their primary addresses.
const OWNERS: [(&str, &str); 2] = [
    ("eni-00000000000000web", "10.0.1.15"),
    ("eni-0000000000000next", "10.0.1.77"),
];

/// The slot of an ENI that comes and goes.
pub(super) const GUEST: u16 = 3;
const GUEST_ENI: (&str, &str) = ("eni-0000000000000guest", "10.0.1.20");

/// Packets and bytes of each flow.
type Sums = BTreeMap<Name, (u64, u64)>;

/// A reader of lines.
#[derive(Debug, Default)]
struct Reader {
    taken: Vec<u8>,
    /// The position at which the last piece began.
    last: usize,
}

struct ToReader(Arc<Mutex<Reader>>);

impl Sink for ToReader {
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let lines = &next.lines()[..whole_lines(next.lines(), 4096)];
        let mut reader = self.0.lock().expect("a reader");
        let at = next.position as usize;
        if at < reader.taken.len() {
            // The piece was taken and not confirmed.
            assert_eq!(at, reader.last, "more than the last piece comes twice");
            let again = lines.len().min(reader.taken.len() - at);
            assert_eq!(reader.taken[at..at + again], lines[..again], "other lines come twice");
            reader.taken.truncate(at);
        }
        assert_eq!(at, reader.taken.len());
        reader.last = at;
        reader.taken.extend_from_slice(lines);
        Ok(lines.len())
    }
}

/// The writers, in the order of their start.
type Writers = Arc<Mutex<Vec<Writer>>>;

/// The objects that outlive a recorder, and the running recorder.
pub(super) struct World {
    pub(super) kernel: Kernel,
    pub(super) now: u64,
    /// The interval of each flow log.
    interval: u32,
    /// The index of the slot's ENI in [`OWNERS`].
    owner: usize,
    /// The slot was assigned to its owner.
    settled: bool,
    /// The configuration names [`GUEST_ENI`].
    guest: bool,
    /// The packets played so far, each with the owner at that time.
    played: Rc<RefCell<Vec<(Packet, usize)>>>,
    reader: Arc<Mutex<Reader>>,
    /// The folder of further destinations, if there are any.
    files: Option<PathBuf>,
    journal: PathBuf,
    process: Option<(Recorder, Writers)>,
    pub(super) kills: u32,
    /// The fault points of the kills so far.
    pub(super) visited: BTreeSet<Fault>,
    /// After this process was killed: the number of steps until the next one is.
    pub(super) again: Option<u32>,
}

impl Drop for World {
    fn drop(&mut self) {
        fault::arm(None);
        if let Some(folder) = self.journal.parent() {
            let _gone = fs::remove_dir_all(folder);
        }
    }
}

impl World {
    /// A world whose lines go to a reader, and with `files` to files and a folder too.
    pub(super) fn new(files: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("taskgate-kills-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let memory = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        let folder = if memory.is_dir() { memory } else { &temporary }.join(name);
        fs::create_dir(&folder).expect("a folder");
        let mut world = Self {
            kernel: Kernel::new(),
            now: BEGIN,
            interval: 60,
            owner: 0,
            settled: true,
            guest: false,
            played: Rc::default(),
            reader: Arc::default(),
            files: files.then(|| folder.clone()),
            journal: folder.join("journal"),
            process: None,
            kills: 0,
            visited: BTreeSet::new(),
            again: None,
        };
        fault::arm(None);
        world.start();
        world
    }

    /// Kills the recorder after so many steps.
    pub(super) fn arm(steps: Option<u32>) {
        fault::arm(steps);
    }

    /// Plays a packet between two operations.
    pub(super) fn packet(&mut self, packet: Packet) {
        let counts = match packet.slot {
            WEB => self.settled,
            GUEST => self.guest,
            _ => true,
        };
        if counts {
            packet.play(&mut self.kernel.state);
            self.played.borrow_mut().push((packet, self.owner));
        }
    }

    /// Plays packets during the next operations, each before the step with its number.
    pub(super) fn busy(&mut self, packets: Vec<(u8, Packet)>) {
        let (played, owner) = (Rc::clone(&self.played), self.owner);
        let mut at = 0;
        self.kernel.between = Box::new(move |state, step| {
            if !matches!(step, Step::Usage(_) | Step::FreeConn(_) | Step::FreeDenial(_)) {
                for (_, packet) in packets.iter().filter(|(step, _)| *step == at) {
                    packet.play(state);
                    played.borrow_mut().push((*packet, owner));
                }
                at += 1;
            }
            Ok(())
        });
    }

    pub(super) fn wait(&mut self, seconds: u32) {
        self.now += u64::from(seconds);
        self.kernel.state.clock = self.kernel.state.clock.wrapping_add(seconds * SECOND);
    }

    pub(super) fn close(&mut self) {
        self.step(|recorder, _, kernel, now| recorder.close_window(kernel, now).expect("a window").errors);
    }

    pub(super) fn gc(&mut self, unreported: bool) {
        self.step(|recorder, _, kernel, _| recorder.gc(kernel, unreported));
    }

    pub(super) fn free_denials(&mut self) {
        self.step(|recorder, _, kernel, _| recorder.free_denials(kernel));
    }

    /// Lets each destination take `pieces` pieces.
    pub(super) fn read(&mut self, pieces: u32) {
        self.step(|_, writers, _, _| {
            for writer in writers.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                for _ in 0..pieces {
                    match writer.write_piece() {
                        Attempt::Written => {}
                        Attempt::Nothing => break,
                        Attempt::Failed => panic!("nothing is in the way"),
                    }
                }
            }
            Vec::new()
        });
    }

    /// Changes the flow logs' interval.
    pub(super) fn reconfigure(&mut self, interval: u32) {
        self.interval = interval;
        let settings = self.settings();
        self.step(|recorder, _, kernel, now| recorder.reconfigure(kernel, now, settings));
    }

    /// Assigns the slot [`WEB`] to the other ENI.
    pub(super) fn rebind(&mut self) {
        self.owner = 1 - self.owner;
        self.settled = false;
        let enis = self.enis();
        self.step(|recorder, _, kernel, _| recorder.bind(kernel, enis));
        self.settled = true;
    }

    /// Adds or removes [`GUEST_ENI`].
    pub(super) fn invite(&mut self) {
        self.guest ^= true;
        let enis = self.enis();
        self.step(|recorder, _, kernel, _| recorder.bind(kernel, enis));
    }

    /// Kills the recorder at once, and with `invite` adds or removes [`GUEST_ENI`] before the next start.
    pub(super) fn kill(&mut self, invite: bool) {
        self.process = None;
        self.guest ^= invite;
        self.start();
    }

    /// Ends cleanly, and returns the sums of counted packets, and those written to each destination.
    pub(super) fn end(mut self) -> (Sums, Vec<Sums>) {
        World::arm(None);
        self.again = None;
        self.step(|recorder, _, kernel, now| recorder.close_final(kernel, now).expect("a window").errors);
        self.read(10_000);
        let state = &self.kernel.state;
        assert!(state.frozen_conns.is_empty() && state.frozen_denials.is_empty());
        let mut counted = Sums::new();
        for (packet, owner) in self.played.borrow().iter() {
            let eni = match packet.slot {
                WEB => OWNERS[*owner],
                GUEST => GUEST_ENI,
                _ => ("eni-000000000000000db", "10.0.1.20"),
            };
            let sum = counted.entry(packet.name(eni)).or_default();
            *sum = (sum.0 + 1, sum.1 + packet.bytes);
        }
        let mut written = vec![sums(&self.reader.lock().expect("a reader").taken)];
        if let Some(folder) = &self.files {
            written.push(sums(&files::numbered(&folder.join("flows.log"))));
            written.push(sums(&files::delivered(folder)));
        }
        (counted, written)
    }

    fn logs(&self) -> Vec<FlowLog> {
        let log = |destination| FlowLog {
            destination,
            interval: self.interval,
            ..FlowLog::default()
        };
        let Some(folder) = &self.files else {
            return vec![log(Destination::Stdout)];
        };
        let file = LogFile {
            path: folder.join("flows.log"),
            rotate: Some(Rotate {
                size: Some(1 << 10),
                age: None,
                keep: 1000,
            }),
        };
        vec![
            log(Destination::Stdout),
            log(Destination::File(file)),
            log(Destination::Folder(files::folder(folder))),
        ]
    }

    fn sinks(&self, writers: &Writers) -> Sinks {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (reader, writers) = (Arc::clone(&self.reader), Arc::clone(writers));
        Sinks {
            open: Box::new(move |log, number| match log.destination {
                Destination::Stdout => Ok((String::from("a test"), Box::new(ToReader(Arc::clone(&reader))))),
                _ => sink::open(log, "a test", number),
            }),
            start: Box::new(move |writer| {
                writers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
                Ok(())
            }),
            number: Box::new(|| NUMBER.fetch_add(1, Relaxed)),
        }
    }

    fn settings(&self) -> RecordSettings {
        RecordSettings {
            logs: self.logs(),
            unlogged: Unlogged::default(),
            timeouts: timeouts(),
        }
    }

    fn enis(&self) -> HashMap<u16, LoggedEni> {
        let (id, primary) = OWNERS[self.owner];
        let first = if self.owner == 0 { web() } else { eni(id, &[primary]) };
        let guest = (GUEST, eni(GUEST_ENI.0, &[GUEST_ENI.1]));
        let enis = [(WEB, first), (DB, db())]
            .into_iter()
            .chain(self.guest.then_some(guest));
        enis.map(|(slot, eni)| (slot, LoggedEni::new(eni, "111122223333")))
            .collect()
    }

    fn step(&mut self, step: impl FnOnce(&mut Recorder, &Writers, &mut Kernel, u64) -> Vec<RecordError>) {
        let (mut recorder, writers) = self.process.take().expect("one runs");
        let done = catch_unwind(AssertUnwindSafe(|| {
            step(&mut recorder, &writers, &mut self.kernel, self.now)
        }));
        self.kernel.between = Box::new(|_, _| Ok(()));
        match done {
            Ok(errors) => {
                assert!(errors.is_empty(), "{errors:?}");
                self.process = Some((recorder, writers));
            }
            Err(how) if how.is::<Killed>() => {
                drop((recorder, writers));
                self.killed();
                self.start();
            }
            Err(how) => resume_unwind(how),
        }
    }

    fn killed(&mut self) {
        let visited = fault::arm(self.again.take());
        self.kills += 1;
        self.visited.extend(visited);
    }

    fn start(&mut self) {
        loop {
            let (settings, enis) = (self.settings(), self.enis());
            let started = catch_unwind(AssertUnwindSafe(|| {
                let journal = Journal::of_boot(&self.journal, [7; 32], [1; 16]);
                let writers = Writers::default();
                let sinks = self.sinks(&writers);
                let begun = Recorder::begin_with(
                    &mut self.kernel,
                    journal,
                    RecorderStart {
                        now: self.now,
                        window: 1,
                        most: 1 << 20,
                    },
                    (settings, RecordNames::default()),
                    sinks,
                );
                let (mut recorder, errors) = begun.expect("it begins");
                assert!(errors.is_empty(), "{errors:?}");
                let errors = recorder.bind(&mut self.kernel, enis);
                assert!(errors.is_empty(), "{errors:?}");
                (recorder, writers)
            }));
            match started {
                Ok(process) => {
                    self.process = Some(process);
                    return;
                }
                Err(how) if how.is::<Killed>() => self.killed(),
                Err(how) => resume_unwind(how),
            }
        }
    }
}

/// The sums of lines.
fn sums(lines: &[u8]) -> Sums {
    let mut written = Sums::new();
    for line in reader::read(lines) {
        let flow = line.flow.expect("nothing was lost and nobody asked for silence");
        let ports = (flow.source_port, flow.destination_port);
        let name = (
            line.eni,
            flow.source,
            flow.destination,
            ports.0,
            ports.1,
            flow.protocol,
            flow.action,
        );
        let sum = written.entry(name).or_default();
        *sum = (sum.0 + flow.packets, sum.1 + flow.bytes);
    }
    written
}
