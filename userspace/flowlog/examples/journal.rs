//! Measures the cost of the journal: the time to close a window with and without it, by number of connections.
//!
//!     cargo run --release -p taskgate-flowlog --example journal > /dev/null

#![expect(clippy::print_stderr, reason = "standard output has the records")]

use std::{
    error::Error,
    io,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use taskgate_ebpf::{
    abi::{
        LinkId,
        image::TIMEOUTS,
        tables::{KeyTag, state},
    },
    wire::TCP,
};
use taskgate_flowlog::{Journal, LoggedEni, RecordNames, RecordSettings, Recorder, RecorderStart, Unlogged};
use taskgate_model::{EcsFields, Eni, FlowLog};
use taskgate_tables::{ConnState, DenialState, FlowId, FlowKey, FlowTables, TrackedConn, UsageState};

const ROUNDS: u64 = 7;
const BEGIN: u64 = 1_767_225_600;

/// Tables with connections that never end.
struct Tables(Vec<(FlowKey, ConnState)>);

impl Tables {
    fn new(conns: u32) -> Self {
        let conn = |number: u32| {
            let peer = Ipv4Addr::from_bits(0x0a00_0000 + (number >> 14));
            let ports = (443 << 16) | (1024 + (number & 0x3fff));
            let tag = KeyTag::of_conn(LinkId::device(7), TCP);
            let key = FlowKey::new(Ipv4Addr::new(10, 0, 1, 5).into(), peer.into(), ports, tag);
            let conn = ConnState {
                slot: 1,
                state: state::CONFIRMED,
                ..ConnState::default()
            };
            (key, conn)
        };
        Self((0..conns).map(conn).collect())
    }

    /// Counts packets in every `every`th connection.
    fn carry(&mut self, every: usize) {
        for (_, conn) in self.0.iter_mut().step_by(every) {
            for (total, bytes) in conn.totals.iter_mut().zip([60, 1500]) {
                total.packets += 10;
                total.bytes += 10 * bytes;
            }
        }
    }
}

impl FlowTables for Tables {
    fn conns(&mut self, visit: &mut dyn FnMut(&TrackedConn)) -> io::Result<()> {
        for (number, (key, conn)) in (0..).zip(&self.0) {
            visit(&TrackedConn::new(FlowId::numbered(number << 21 | 9), *key, *conn, 0));
        }
        Ok(())
    }

    fn denials(&mut self, _: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        Ok(())
    }

    fn mark_conns(&mut self, _: &[FlowId]) -> io::Result<()> {
        Ok(())
    }

    fn mark_denials(&mut self, _: &[FlowId]) -> io::Result<()> {
        Ok(())
    }

    fn marked_conn(&mut self, _: FlowId) -> Option<TrackedConn> {
        None
    }

    fn freeze_conn(&mut self, _: FlowId) -> io::Result<Option<(FlowKey, ConnState)>> {
        Ok(None)
    }

    fn free_conn(&mut self, _: FlowId) -> io::Result<()> {
        Ok(())
    }

    fn keep_conn(&mut self, _: FlowId) {}

    fn freeze_denial(&mut self, _: FlowId) -> io::Result<Option<(FlowKey, DenialState)>> {
        Ok(None)
    }

    fn free_denial(&mut self, _: FlowId) -> io::Result<()> {
        Ok(())
    }

    fn frozen_conns(&mut self, _: &mut dyn FnMut(FlowId, FlowKey, ConnState)) -> io::Result<()> {
        Ok(())
    }

    fn frozen_denials(&mut self, _: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        Ok(())
    }

    fn forget_fragments(&mut self, _: &[u32; TIMEOUTS]) -> io::Result<()> {
        Ok(())
    }

    fn usage(&mut self, _: u16) -> io::Result<UsageState> {
        Ok(UsageState::default())
    }

    fn set_window(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn now(&mut self) -> io::Result<u32> {
        Ok(0)
    }

    fn ticks_per_second(&self) -> u32 {
        1000
    }
}

fn eni() -> LoggedEni {
    let eni = Eni {
        id: String::from("eni-0123456789abcdef0"),
        task: None,
        account: None,
        addresses: vec![Ipv4Addr::new(10, 0, 1, 5).into()],
        groups: Vec::new(),
        groups_known: true,
        gate_known: true,
        binding: None,
        source_dest_check: true,
        vpc: None,
        subnet: None,
        az_id: None,
        region: None,
        ecs: EcsFields::default(),
    };
    LoggedEni::new(eni, "111122223333")
}

fn settings() -> RecordSettings {
    RecordSettings {
        logs: vec![FlowLog::default()],
        unlogged: Unlogged::default(),
        timeouts: [u32::MAX / 4; TIMEOUTS],
    }
}

fn begin(tables: &mut Tables, path: &Path) -> Result<(Recorder, Duration), Box<dyn Error>> {
    let journal = Journal::open(path, [0; 32])?;
    let start = RecorderStart {
        now: BEGIN,
        window: 1,
        most: 1 << 22,
    };
    let begun = Instant::now();
    let (mut recorder, _) = Recorder::begin(tables, "default", journal, start, settings(), RecordNames::default())?;
    let time = begun.elapsed();
    recorder.bind(tables, [(1, eni())].into());
    Ok((recorder, time))
}

/// The median time of closing a window and writing its lines, without waiting for their reader.
fn close(tables: &mut Tables, path: &Path, every: usize) -> Result<Duration, Box<dyn Error>> {
    let (mut recorder, _) = begin(tables, path)?;
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        tables.carry(every);
        let begun = Instant::now();
        recorder.close_window(tables, BEGIN + 60 * round)?;
        times.push(begun.elapsed());
        if let Some(error) = recorder.finish(Duration::from_mins(1)).pop() {
            return Err(error.into());
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = Path::new("/dev/shm/taskgate-example.journal");
    for (conns, every) in [(262_144, 1), (262_144, 100), (1_000_000, 1), (1_000_000, 100)] {
        let mut tables = Tables::new(conns);
        tables.carry(1);
        let without = close(&mut tables, Path::new("/nowhere/journal"), every)?;
        let with = close(&mut tables, path, every)?;
        let bytes = std::fs::metadata(path)?.len();
        let (_, resumed) = begin(&mut tables, path)?;
        Journal::remove(path)?;
        eprintln!(
            "{conns} connections, {} with packets: a window {without:.1?} without journal, {with:.1?} with one of {} MB; \
             resumed in {resumed:.1?}",
            conns as usize / every,
            bytes / 1_000_000
        );
    }
    Ok(())
}
