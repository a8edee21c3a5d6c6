//! The connection table under packets on two CPUs while the reporting process is killed repeatedly: each packet is in
//! exactly one report. Takes half a minute, and minutes with `cargo xtask test --long`.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    env,
    fmt::Write as _,
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, id},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, getppid},
};
use taskgate_bpf::{
    conntable::{MappedTable, TableKey},
    sys::{TestPacket, test_run, wait_grace_period},
};
use taskgate_ebpf::{
    abi::{Conn, Direction, FlowMaps, Key4, Key6, image, map},
    conntable::{ControlWord, State, Version, gc},
};
use taskgate_model::Protocol;
use testkit::{
    fixture::{
        DataPath as _, Fixture, Kernel, all_gated,
        frames::{ip, udp},
        model::{gated, group, model},
    },
    map_dump::conns_of,
    random::Random,
    sandbox::sandbox,
};

/// The environment variable with the folder of the journals, for the reporting process.
const FOLDER: &str = "TASKGATE_TEST_COLLECTOR";
/// Flows of each family.
const FLOWS: u16 = 128;
const TASK: [&str; 2] = ["10.9.0.5", "2001:db8:9::5"];
const PEER: [&str; 2] = ["10.0.1.7", "2001:db8:1::7"];

/// Packets and bytes.
type Count = (u64, u64);

/// Reported totals of a table: written down before a way is given back.
struct Journal<K> {
    file: PathBuf,
    table: MappedTable<K, Conn>,
    /// By way and version.
    told: HashMap<(u32, Version), Count>,
    reported: BTreeMap<K, Count>,
    /// Entries that were removed, and marks that packets took off.
    removed: u64,
    revived: u64,
}

impl<K: TableKey + Ord> Journal<K> {
    fn open(folder: &Path, maps: FlowMaps, process: u32) -> Result<Self> {
        let table = conns_of(process, maps)?;
        let file = folder.join(maps.entries);
        let mut journal = Self {
            table,
            told: HashMap::new(),
            reported: BTreeMap::new(),
            removed: 0,
            revived: 0,
            file,
        };
        for line in fs::read_to_string(&journal.file).unwrap_or_default().lines() {
            let numbers = line[1..]
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<Vec<u64>, _>>()?;
            match (&line[..1], &numbers[..]) {
                ("t", [way, version, packets, bytes]) => {
                    journal
                        .told
                        .insert((*way as u32, Version::from_number(*version)), (*packets, *bytes));
                }
                ("r", [entry, entry_end, rest @ .., packets, bytes]) => {
                    let key = K::of([*entry, *entry_end], rest.try_into()?);
                    journal.reported.insert(key, (*packets, *bytes));
                }
                ("n", [removed, revived]) => (journal.removed, journal.revived) = (*removed, *revived),
                _ => ensure!(false, "a journal's line is `{line}`"),
            }
        }
        Ok(journal)
    }

    fn save(&self) -> Result<()> {
        let mut text = format!("n {} {}\n", self.removed, self.revived);
        for ((way, version), (packets, bytes)) in &self.told {
            writeln!(text, "t {way} {} {packets} {bytes}", version.number())?;
        }
        for (key, (packets, bytes)) in &self.reported {
            let (entry, rest) = key.parts();
            let words: Vec<_> = entry.iter().chain(&rest).map(u64::to_string).collect();
            writeln!(text, "r {} {packets} {bytes}", words.join(" "))?;
        }
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.file)?)
    }

    fn totals(&self, way: u32) -> (K, Count) {
        let (key, conn) = self.table.entry_at(way);
        let packets = conn.packets.iter().map(|count| u64::from(count.get())).sum();
        (key, (packets, conn.bytes.iter().map(Cell::get).sum()))
    }

    /// Reports all entries, then frees the frozen ones.
    fn close_window(&mut self) -> Result<()> {
        let mut told = HashMap::new();
        let mut found = BTreeMap::new();
        let mut frozen = Vec::new();
        for way in 0..self.table.ways() {
            let word = self.table.control(way);
            match word.state() {
                Some(State::Live | State::Dying) => {}
                Some(State::Frozen) => frozen.push((way, word)),
                _ => continue,
            }
            let (key, now) = self.totals(way);
            if !word.is(State::Frozen)
                && let Some(other) = found.insert(key, way)
            {
                ensure!(false, "one flow is in ways {other} and {way}");
            }
            let at = (way, word.version());
            let before = self.told.get(&at).copied().unwrap_or_default();
            ensure!(now.0 >= before.0 && now.1 >= before.1, "totals of way {way} fell");
            let reported = self.reported.entry(key).or_default();
            reported.0 += now.0 - before.0;
            reported.1 += now.1 - before.1;
            told.insert(at, now);
        }
        self.told = told;
        self.removed += frozen.len() as u64;
        self.save()?;
        for (way, word) in frozen {
            gc::free::<K, _>(&self.table, way, word);
        }
        Ok(())
    }

    fn mark(&self, random: &mut Random) -> Vec<(u32, ControlWord)> {
        let half = random.number() & 1 == 0;
        let mut marked = Vec::new();
        for way in 0..self.table.ways() {
            let word = self.table.control(way);
            // Dying: marked by a process that was killed.
            if word.is(State::Dying) || (half || random.number() & 1 == 0) && gc::mark::<K, _>(&self.table, way, word) {
                marked.push((way, word.with(State::Dying)));
            }
        }
        marked
    }

    fn remove(&mut self, marked: Vec<(u32, ControlWord)>, random: &mut Random) {
        for (way, word) in marked {
            let told = self.told.get(&(way, word.version())).copied().unwrap_or_default();
            if self.totals(way).1 == told {
                if gc::remove::<K, _>(&self.table, way, word) {
                    self.removed += 1;
                } else {
                    self.revived += 1;
                }
            } else if random.number().is_multiple_of(4) {
                gc::unmark::<K, _>(&self.table, way, word);
            } else if !gc::freeze::<K, _>(&self.table, way, word) {
                self.revived += 1;
            }
        }
    }
}

/// The process that the test below starts and kills; not a test by itself.
#[test]
fn collector() -> Result<()> {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return Ok(());
    };
    let test = getppid().as_raw().cast_unsigned();
    let mut v4 = Journal::<Key4>::open(&folder, map::CONNS_V4, test)?;
    let mut v6 = Journal::<Key6>::open(&folder, map::CONNS_V6, test)?;
    let mut random = Random::new(u64::from(id()) << 32 | 1);
    loop {
        v4.close_window()?;
        v6.close_window()?;
        let marked = (v4.mark(&mut random), v6.mark(&mut random));
        wait_grace_period()?;
        v4.remove(marked.0, &mut random);
        v6.remove(marked.1, &mut random);
    }
}

/// The collector process, killed on drop.
struct Collector(Child);

impl Collector {
    fn start(folder: &Path) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(["--exact", "collector"])
            .env(FOLDER, folder)
            .stdout(std::process::Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Lets the collector work for this long, and kills it.
    fn live(mut self, life: Duration) -> Result<()> {
        let end = Instant::now() + life;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait()? {
                ensure!(false, "the collector ended with {status}, its words stand above");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Sends packets of flows, a few flows at a time. Returns how many packets of each passed.
fn packets(program: BorrowedFd<'_>, frames: &[Vec<u8>], seed: u64, stop: &AtomicBool) -> Result<Vec<u64>> {
    const PASS: u32 = u32::MAX;
    let mut sent = vec![0; frames.len()];
    let mut random = Random::new(seed);
    let began = Instant::now();
    while !stop.load(Relaxed) {
        // One of 16 flows or of 2, and others after some milliseconds: earlier flows fall silent and come again.
        let number = random.number() as usize;
        let few = if number & 1 << 32 == 0 { 1 } else { 15 };
        let at = (began.elapsed().as_millis() as usize / 50 * 16 + (number & few)) % frames.len();
        let packet = TestPacket {
            frame: &frames[at],
            ifindex: *Kernel::LINKS.start(),
            ..TestPacket::default()
        };
        let repeat = 1 + (number >> 40 & 3) as u32;
        let ran = test_run(program, &packet, repeat)?;
        ensure!(ran.returned == PASS, "a packet of flow {at} ended as {}", ran.returned);
        sent[at] += u64::from(repeat);
    }
    Ok(sent)
}

#[test]
fn each_packet_is_reported_once_however_often_the_collector_is_killed() -> Result<()> {
    let seconds = if env::var_os("TASKGATE_TEST_LONG").is_some() {
        300
    } else {
        30
    };
    let folder = env::temp_dir().join(format!("taskgate-collector-{}", id()));
    fs::create_dir_all(&folder)?;
    let done = sandbox(|| async { stress(Duration::from_secs(seconds), &folder) });
    fs::remove_dir_all(&folder)?;
    done
}

fn stress(time: Duration, folder: &Path) -> Result<()> {
    let mut turn = Kernel::turn()?;
    let kernel = turn.as_mut().context("no kernel program")?;
    let image = kernel.image()?;
    let mut fixture = Fixture::new(&image)?;
    let everywhere = [(Protocol::All, "0.0.0.0/0"), (Protocol::All, "::/0")];
    let groups = vec![group("web", &[], &everywhere)];
    fixture.apply(model(groups, vec![gated("task", &TASK, &[0])]), &all_gated)?;
    fixture.bind(*Kernel::LINKS.start(), "task")?;
    fixture.share(image::Shared::Connections, u32::MAX, 0);

    let at = |text: &str| text.parse().context("an address");
    let mut frames = Vec::new();
    for number in 0..2 * FLOWS {
        let family = usize::from(number % 2);
        let payload = vec![0; usize::from(number % 64)];
        frames.push(ip(
            at(TASK[family])?,
            at(PEER[family])?,
            17,
            &udp(1000 + number / 2, 53, &payload),
        ));
    }
    let program = kernel.program(Direction::Egress)?;
    let stop = AtomicBool::new(false);
    let mut kills = 0;
    let sent = thread::scope(|scope| -> Result<Vec<u64>> {
        let threads = [0_usize, 1].map(|cpu| {
            let (program, frames, stop) = (program.as_fd(), &frames, &stop);
            scope.spawn(move || {
                // Each on a separate CPU, if there are two.
                let mut set = CpuSet::new();
                set.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &set).ok();
                packets(program, frames, 0x9e37_79b9 + cpu as u64, stop)
            })
        });
        let mut random = Random::new(u64::from(id()) << 1 | 1);
        let end = Instant::now() + time;
        let mut lived = Ok(());
        while lived.is_ok() && Instant::now() < end {
            let most = if random.number().is_multiple_of(8) {
                2_000_000
            } else {
                400_000
            };
            let life = Duration::from_micros(2_000 + random.number() % most);
            lived = Collector::start(folder).and_then(|collector| collector.live(life));
            kills += 1;
        }
        stop.store(true, Relaxed);
        let mut sum = vec![0; frames.len()];
        for thread in threads {
            let sent = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            for (sum, sent) in sum.iter_mut().zip(sent) {
                *sum += sent;
            }
        }
        lived.map(|()| sum)
    })?;

    let mut v4 = Journal::<Key4>::open(folder, map::CONNS_V4, id())?;
    let mut v6 = Journal::<Key6>::open(folder, map::CONNS_V6, id())?;
    v4.close_window()?;
    v6.close_window()?;
    let reported = v4.reported.iter().map(|(key, count)| (key.ports, *count));
    let v4_reported: BTreeMap<_, _> = reported.collect();
    let reported = v6.reported.iter().map(|(key, count)| (key.ports, *count));
    let v6_reported: BTreeMap<_, _> = reported.collect();
    let mut missing = 0;
    for (number, (sent, frame)) in (0_u16..).zip(sent.iter().zip(&frames)) {
        let of = if number % 2 == 0 { &v4_reported } else { &v6_reported };
        let ports = u32::from(1000 + number / 2) * 0x1_0000 + 53;
        let found = of.get(&ports).copied().unwrap_or_default();
        let uncounted = sent.checked_sub(found.0);
        ensure!(
            uncounted.is_some() && found.1 == found.0 * (frame.len() as u64 - 14),
            "flow {number}: {found:?} were reported, {sent} packets were sent"
        );
        missing += uncounted.unwrap_or_default();
    }
    let (removed, revived) = (v4.removed + v6.removed, v4.revived + v6.revived);
    ensure!(
        kills > 20 && removed > 100 && revived > 100,
        "{kills} kills, {removed} removed, {revived} revived"
    );
    for word in (0..v4.table.ways())
        .map(|way| v4.table.control(way))
        .chain((0..v6.table.ways()).map(|way| v6.table.control(way)))
    {
        ensure!(!word.is(State::Pending) && !word.is(State::Killed), "{word:?} is left");
    }
    let usage = kernel.state(fixture.highest)?.usage;
    let lost: u64 = usage.values().map(|usage| usage.flows_lost).sum();
    let refused: u64 = usage.values().map(|usage| usage.conns_refused).sum();
    let packets: u64 = sent.iter().sum();
    // When both CPUs insert the same flow at once, one may find the table busy: its packet passes, and is counted as
    // lost.
    ensure!(
        missing == lost,
        "{missing} packets are in no report, {lost} were counted as lost"
    );
    ensure!(
        refused == 0 && lost < packets / 100_000,
        "{refused} packets refused, {lost} of {packets} lost"
    );
    Ok(())
}
