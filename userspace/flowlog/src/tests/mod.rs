//! Tests from tables to lines, over simulated kernel tables.

mod file;
mod files;
mod folder;
mod formats;
mod journals;
mod kernel;
mod killed;
mod kills;
mod lines;
mod merging;
mod random;
mod reader;
mod removal;
mod sinks;
mod windows;
mod wraps;

use bytes::BytesMut;
use taskgate_ebpf::{
    abi::image::{TIMEOUTS, Timeout},
    conntrack::default_seconds,
};
use taskgate_model::{EcsFields, Eni, FlowLog, Model};

use self::kernel::{BEGIN, Kernel, SECOND};
use super::{Collector, LoggedEni, Stream, Unlogged, Window, aligned};

/// The most records that a flow log holds.
const HELD_MOST: usize = 8;

/// The slots of the ENIs that [`Rig::new`] binds.
const WEB: u16 = 1;
const DB: u16 = 2;

fn eni(id: &str, addresses: &[&str]) -> Eni {
    Eni {
        id: id.to_owned(),
        task: None,
        account: None,
        addresses: addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
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
    }
}

fn web() -> Eni {
    eni("eni-00000000000000web", &["10.0.1.15", "10.0.1.16", "2001:db8:1::15"])
}

fn db() -> Eni {
    Eni {
        account: Some("999988887777".to_owned()),
        ..eni("eni-000000000000000db", &["10.0.1.20"])
    }
}

fn timeouts() -> [u32; TIMEOUTS] {
    Timeout::ALL.map(|timeout| default_seconds(timeout) * SECOND)
}

/// A kernel, a collector with the ENIs `web` and `db`, and one flow log.
struct Rig {
    kernel: Kernel,
    collector: Collector,
    stream: Stream,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        Self::with(&FlowLog::default(), Unlogged::new(Model::default().unlogged()))
    }

    /// A rig whose first window has this number.
    fn numbered(number: u32) -> Self {
        let mut rig = Self::new();
        rig.kernel = Kernel::new();
        let logs = [FlowLog::default()];
        rig.collector = Collector::begin(&mut rig.kernel, number, BEGIN, &logs, Unlogged::default(), timeouts())
            .expect("a collector");
        rig.collector.bind(WEB, LoggedEni::new(web(), "111122223333"));
        rig
    }

    fn with(log: &FlowLog, unlogged: Unlogged) -> Self {
        let mut kernel = Kernel::new();
        let logs = std::slice::from_ref(log);
        let mut collector = Collector::begin(&mut kernel, 7, BEGIN, logs, unlogged, timeouts()).expect("a collector");
        collector.bind(WEB, LoggedEni::new(web(), "111122223333"));
        collector.bind(DB, LoggedEni::new(db(), "111122223333"));
        let stream = Stream::new(log, aligned(BEGIN, log.interval), HELD_MOST);
        Self {
            kernel,
            collector,
            stream,
            now: BEGIN,
        }
    }

    /// Lets time go by.
    fn wait(&mut self, seconds: u32) {
        self.now += u64::from(seconds);
        self.kernel.state.clock = self.kernel.state.clock.wrapping_add(seconds * SECOND);
    }

    /// Closes the window a minute after the last one.
    fn close(&mut self) -> Window {
        self.wait(60);
        self.try_close().expect("a window")
    }

    fn try_close(&mut self) -> Result<Window, super::CollectError> {
        let window = self.collector.close_window(&mut self.kernel, self.now)?;
        self.free();
        Ok(window)
    }

    fn free(&mut self) {
        self.collector.free(&mut self.kernel).expect("places are freed");
    }

    fn close_final(&mut self) -> Window {
        let window = self.collector.close_final(&mut self.kernel, self.now);
        self.free();
        window.expect("a window")
    }

    fn gc(&mut self, unreported: bool) {
        self.collector.gc(&mut self.kernel, unreported).expect("a collection");
        self.free();
    }

    /// The lines of a window, read strictly; times as seconds since [`BEGIN`].
    fn lines(&mut self, window: &Window) -> Vec<String> {
        shown(&self.stream.push(window, true))
    }

    /// Runs a minute at whose end the queue has no room for lines.
    fn minute_without_room(&mut self) {
        let window = self.close();
        assert_eq!(shown(&self.stream.push(&window, false)), [""; 0]);
    }

    /// The lines of the next window.
    fn minute(&mut self) -> Vec<String> {
        let window = self.close();
        self.lines(&window)
    }
}

/// Lines as tests write them: without version and account, the ENI by its last letters, times since [`BEGIN`].
fn shown(text: &BytesMut) -> Vec<String> {
    reader::read(text)
        .into_iter()
        .map(|line| {
            let eni = line.eni.trim_start_matches("eni-").trim_start_matches('0');
            let times = format!("{}-{}", line.start - BEGIN, line.end - BEGIN);
            let Some(flow) = line.flow else {
                return format!("{eni} {times} {}", line.status);
            };
            format!(
                "{eni} {} {} {} {} {} {} {} {times} {}",
                flow.source,
                flow.destination,
                flow.source_port,
                flow.destination_port,
                flow.protocol,
                flow.packets,
                flow.bytes,
                flow.action,
            )
        })
        .collect()
}
