//! The cost of a packet with one task and with the most tasks.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::sys;
use taskgate_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    LinkId,
    program::{FROM_TASK, TO_TASK},
};

use super::DensityEffort;
use crate::{
    loaded::{self, Counted, LoadedFixture},
    measure::{self, Runner},
    paths::ROOM,
    spread::Spread,
    table::table,
    varied::{self, Varied},
};
use testkit::{
    fixture::{
        frames,
        model::{gated, group, model, udp_to},
    },
    sandbox::ip_batch,
    scale::{self, MOST_BRANCHES, MOST_TASKS},
};

/// The trunk's ifindex, and that of the first link of a task.
const TRUNK: u32 = 101;
const FIRST: u32 = 1001;

const OPEN: u16 = 53;
const SHUT: u16 = 80;
const UDP: u8 = 17;
/// Return value of XDP programs.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const PEER: [u8; 4] = [10, 99, 0, 9];
const PEER_PORT: u16 = 1024;

/// The step with which fewer than 4,094 items are visited in a scattered order, each once: it is coprime to the numbers
/// of items that are measured.
const STRIDE: u32 = 1583;

/// The links of the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Branch,
    Veth,
}

/// The links of tasks, by name and ifindex.
pub(super) fn links() -> impl Iterator<Item = (String, u32)> {
    (0..u32::from(MOST_TASKS)).map(|number| (loaded::name(FIRST + number), FIRST + number))
}

/// Makes the trunk and the links of all tasks, two of them with each pair.
fn make_links() -> Result<()> {
    let pair = |[(name, index), (other, other_index)]: [(String, u32); 2]| {
        format!("link add {name} index {index} type veth peer name {other} index {other_index}")
    };
    let mut lines = vec![pair([TRUNK, TRUNK + 1].map(|index| (loaded::name(index), index)))];
    let mut links = links();
    while let (Some(one), Some(other)) = (links.next(), links.next()) {
        lines.push(pair([one, other]));
    }
    ip_batch(&lines.join("\n"))
}

/// A host with this many tasks.
struct Host {
    kind: Kind,
    count: u16,
    fixture: LoadedFixture,
    prefilter: OwnedFd,
}

impl Host {
    fn new(kind: Kind, count: u16) -> Result<Self> {
        let id = |number: u16| format!("eni-{number}");
        let all = (udp_to(OPEN, OPEN), "0.0.0.0/0");
        let enis = (0..count).map(|number| gated(&id(number), &[&scale::address(number).to_string()], &[0]));
        let model = model(vec![group("query", &[all], &[all])], enis.collect());
        let link = |number: u16| match kind {
            Kind::Branch => LinkId::branch(number + 1).get(),
            Kind::Veth => FIRST + u32::from(number),
        };
        let links: Vec<_> = (0..count).map(|number| (link(number), id(number))).collect();
        let trunk = if kind == Kind::Branch { TRUNK } else { 0 };
        let mut fixture = LoadedFixture::of(ROOM, model, &links, trunk)?;
        let prefilter = fixture.load_prefilter()?;
        let prefilter = fixture.program(prefilter)?;
        Ok(Self {
            kind,
            count,
            fixture,
            prefilter,
        })
    }

    /// A packet between a task and a port of the peer.
    fn frame(&self, path: &Path, number: u16, peer_port: u16) -> Vec<u8> {
        let (peer, task): (IpAddr, _) = (PEER.into(), scale::address(number));
        let frame = match path.direction {
            Ingress => frames::ip(peer, task, UDP, &frames::udp(peer_port, path.port, &[])),
            Egress => frames::ip(task, peer, UDP, &frames::udp(path.port, peer_port, &[])),
        };
        let vlan = number + 1;
        match self.kind {
            Kind::Branch if path.early => frames::tagged(vlan, &frame),
            // A program before the gate moves the tag into metadata.
            Kind::Branch => [&frame[..6], &vlan.to_be_bytes(), &frame[8..]].concat(),
            Kind::Veth => frame,
        }
    }

    /// Runs the gate, or the empty program, this many times on a packet; returns nanoseconds per packet.
    fn run(&self, path: &Path, programs: &Programs, gate: bool, packet: (u16, u16), packets: u32) -> Result<u32> {
        let (number, peer_port) = packet;
        let frame = self.frame(path, number, peer_port);
        let link = match self.kind {
            Kind::Branch => TRUNK,
            Kind::Veth => FIRST + u32::from(number),
        };
        let passes = path.passes || !gate;
        if !path.early {
            let program = if gate { &programs.gate } else { &programs.empty };
            return measure::run(program.as_fd(), &frame, link, packets, passes);
        }
        let program = if gate {
            self.prefilter.as_fd()
        } else {
            programs.empty.as_fd()
        };
        let ran = sys::test_run_prefilter(program, &frame, TRUNK, packets)?;
        let expected = if passes { XDP_PASS } else { XDP_DROP };
        ensure!(
            ran.returned == expected,
            "the prefilter is {}, not {expected}",
            ran.returned
        );
        Ok(ran.nanoseconds)
    }

    fn programs(&self, path: &Path) -> Result<Programs> {
        let gate = match path.direction {
            Egress => FROM_TASK,
            Ingress => TO_TASK,
        };
        let on_links = |program: OwnedFd| -> Result<Runner> {
            Ok(match self.kind {
                Kind::Branch => Runner::Varied(Varied::tagging(program.as_fd())?),
                Kind::Veth => Runner::Same(program),
            })
        };
        Ok(Programs {
            gate: on_links(self.fixture.program(gate)?)?,
            empty: if path.early {
                Runner::Same(varied::empty_xdp()?)
            } else {
                on_links(varied::empty()?)?
            },
        })
    }

    /// Leaves no tracked connections, except one for each task if the path is that of established connections.
    fn prepare(&mut self, path: &Path) -> Result<()> {
        self.fixture.forget_conns()?;
        if path.opened {
            let first = Path {
                direction: Ingress,
                early: false,
                port: OPEN,
                ..*path
            };
            let programs = self.programs(&first)?;
            for number in 0..self.count {
                self.run(&first, &programs, true, (number, PEER_PORT), 1)?;
            }
        }
        Ok(())
    }

    /// One round: net nanoseconds per packet for the same packet repeatedly, and for a packet of each task in turn.
    fn round(&mut self, path: &Path, packets: u32) -> Result<[f64; 2]> {
        self.prepare(path)?;
        let programs = self.programs(path)?;
        let before = self.fixture.counted()?;
        let mut again = f64::NAN;
        let mut judged = 0;
        if !path.is_new() {
            let last = (self.count - 1, PEER_PORT);
            let [empty, gate] = [false, true].map(|gate| self.run(path, &programs, gate, last, packets));
            again = f64::from(gate?) - f64::from(empty?);
            judged += u64::from(packets);
        }
        let mut sums = [0.0; 2];
        for (gate, sum) in [false, true].into_iter().zip(&mut sums) {
            for call in 0..MOST_BRANCHES {
                let number = (u32::from(call) * STRIDE % u32::from(self.count)) as u16;
                // New flows have a new source port.
                let port = if path.is_new() { PEER_PORT + call } else { PEER_PORT };
                *sum += f64::from(self.run(path, &programs, gate, (number, port), 1)?);
            }
        }
        judged += u64::from(MOST_BRANCHES);
        let after = self.fixture.counted()?;
        // The prefilter leaves packets that pass to the gate, and does not count them.
        let expected = match (path.passes, path.early) {
            (true, true) => before,
            (true, false) => Counted {
                tracked: before.tracked + judged,
                ..before
            },
            (false, _) => Counted {
                denied: before.denied + judged,
                ..before
            },
        };
        ensure!(after == expected, "the tables counted {after:?}, not {expected:?}");
        let [empty, gate] = sums;
        Ok([again, (gate - empty) / f64::from(MOST_BRANCHES)])
    }
}

struct Programs {
    gate: Runner,
    empty: Runner,
}

/// A path to measure.
#[derive(Clone, Copy, Debug)]
struct Path {
    name: &'static str,
    direction: Direction,
    early: bool,
    /// Whether the connection exists before.
    opened: bool,
    /// The task's port.
    port: u16,
    passes: bool,
}

impl Path {
    /// Whether each packet opens a connection.
    fn is_new(&self) -> bool {
        self.passes && !self.opened
    }
}

const ESTABLISHED: Path = Path {
    name: "established, to_task",
    direction: Ingress,
    early: false,
    opened: true,
    port: OPEN,
    passes: true,
};
const DENIED: Path = Path {
    name: "denied, to_task",
    opened: false,
    port: SHUT,
    passes: false,
    ..ESTABLISHED
};
const PATHS: [Path; 6] = [
    ESTABLISHED,
    Path {
        name: "established, from_task",
        direction: Egress,
        ..ESTABLISHED
    },
    DENIED,
    Path {
        name: "new, allowed, to_task",
        opened: false,
        ..ESTABLISHED
    },
    Path {
        name: "established, early (XDP)",
        early: true,
        ..ESTABLISHED
    },
    Path {
        name: "denied, early (XDP)",
        early: true,
        ..DENIED
    },
];

/// Measures all paths with one task and with many, for branches and for veth links, round after round.
pub(super) fn measure(effort: DensityEffort, say: &dyn Fn(&str)) -> Result<String> {
    make_links()?;
    let mut text = String::new();
    for (kind, most, what) in [
        (Kind::Branch, effort.branches, "branches of a trunk"),
        (Kind::Veth, effort.tasks, "tasks on veth links"),
    ] {
        say(&format!("packets with 1 and {most} {what}"));
        let paths: Vec<&Path> = PATHS
            .iter()
            .filter(|path| kind == Kind::Branch || !path.early)
            .collect();
        let mut hosts = [Host::new(kind, 1)?, Host::new(kind, most)?];
        let mut measured: Vec<[Vec<[f64; 2]>; 2]> = paths.iter().map(|_| Default::default()).collect();
        for round in 0..=effort.rounds {
            for (path, measured) in paths.iter().zip(&mut measured) {
                for (host, measured) in hosts.iter_mut().zip(measured) {
                    let net = host.round(path, effort.packets).context(path.name)?;
                    if round > 0 {
                        measured.push(net);
                    }
                }
            }
        }
        let rows: Vec<_> = paths
            .iter()
            .zip(&measured)
            .map(|(path, measured)| row(path, measured))
            .collect();
        let many = most.to_string();
        let heading = [
            &*format!("net nanoseconds, {what}"),
            "1, again",
            &*format!("{many}, again"),
            "1, by itself",
            "least",
            "most",
            &*format!("{many}, in turn"),
            "least",
            "most",
            "",
        ];
        text.push('\n');
        text += &table(heading, &rows);
    }
    Ok(text)
}

/// The medians for the same packet repeatedly, then median, least and most for a packet of each task in turn; each first
/// with one task and then with many.
fn row(path: &Path, measured: &[Vec<[f64; 2]>; 2]) -> [String; 10] {
    let of = |host: usize, at: usize| {
        let spread = Spread::of(measured[host].iter().map(|round| round[at]));
        let numbers = spread.map_or([f64::NAN; 3], |Spread { median, least, most }| [median, least, most]);
        numbers.map(|number| {
            if number.is_nan() {
                String::new()
            } else {
                format!("{number:.0}")
            }
        })
    };
    let [[again, ..], [again_many, ..]] = [of(0, 0), of(1, 0)];
    let [alone, alone_least, alone_most] = of(0, 1);
    let [turn, turn_least, turn_most] = of(1, 1);
    let name = path.name.to_owned();
    [
        name,
        again,
        again_many,
        alone,
        alone_least,
        alone_most,
        turn,
        turn_least,
        turn_most,
        String::new(),
    ]
}
