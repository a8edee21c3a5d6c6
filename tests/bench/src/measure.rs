//! Rounds over paths, each compared with the empty program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::sys::{self, TestPacket};

use super::{spread::Spread, varied::Varied};

/// The program that runs on packets.
pub enum Runner {
    /// A program that gets the same packet repeatedly.
    Same(OwnedFd),
    /// A program, on packets that differ.
    Varied(Varied),
}

impl AsFd for Runner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Same(program) => program.as_fd(),
            Self::Varied(varied) => varied.as_fd(),
        }
    }
}

/// A path to measure.
pub struct Case {
    /// The row's name.
    pub name: String,
    /// The budget in net nanoseconds.
    pub budget: Option<u32>,
    /// Whether the path is among the denials that should all take the same time.
    pub flat: bool,
    pub frame: Vec<u8>,
    pub link: u32,
    pub passes: bool,
    pub gate: Runner,
    /// The empty program, run in the same way.
    pub empty: Runner,
    /// Packets in a round.
    pub packets: u32,
}

/// A measured path: nanoseconds per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    pub name: String,
    pub budget: Option<u32>,
    pub flat: bool,
    pub packets: u32,
    pub gross: Spread,
    pub empty: Spread,
    /// The difference, round by round.
    pub net: Spread,
}

impl Path {
    /// Whether the path keeps its budget; `None` if it has none.
    pub fn met(&self) -> Option<bool> {
        self.budget.map(|budget| self.net.median <= f64::from(budget))
    }
}

/// Return values of tc programs for passed and dropped packets.
const PASS: u32 = u32::MAX;
const SHOT: u32 = 2;

/// Runs a program on a frame this many times; returns nanoseconds per packet. An unexpected verdict is an error.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], link: u32, packets: u32, passes: bool) -> Result<u32> {
    let packet = TestPacket {
        frame,
        ifindex: link,
        ..TestPacket::default()
    };
    let ran = sys::test_run(program, &packet, packets).context("cannot run a program on a packet")?;
    let expected = if passes { PASS } else { SHOT };
    ensure!(
        ran.returned == expected,
        "a program returned {}, not {expected}",
        ran.returned.cast_signed()
    );
    Ok(ran.nanoseconds)
}

impl Case {
    /// One round: nanoseconds with the empty program, and with the gate.
    fn round(&self) -> Result<[f64; 2]> {
        let Self {
            frame, link, packets, ..
        } = self;
        let of = |runner: &Runner, passes| run(runner.as_fd(), frame, *link, *packets, passes);
        let empty = of(&self.empty, true)?;
        let gate = of(&self.gate, self.passes)?;
        Ok([empty, gate].map(f64::from))
    }
}

/// Measures all cases in turn, round after round, so that disturbances on the machine affect all cases alike; an
/// uncounted first round fills the caches. `after` is called after each case of each round.
pub fn rounds(cases: &[Case], rounds: u32, after: &mut dyn FnMut(&Case) -> Result<()>) -> Result<Vec<Path>> {
    let mut measured: Vec<Vec<[f64; 2]>> = cases.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (case, measured) in cases.iter().zip(&mut measured) {
            let both = case.round().with_context(|| format!("path `{}`", case.name))?;
            after(case).with_context(|| format!("path `{}`", case.name))?;
            if round > 0 {
                measured.push(both);
            }
        }
    }
    let paths = cases.iter().zip(&measured).map(|(case, measured)| {
        let spread = |of: fn(&[f64; 2]) -> f64| Spread::of(measured.iter().map(of)).context("no rounds");
        Ok(Path {
            name: case.name.clone(),
            budget: case.budget,
            flat: case.flat,
            packets: case.packets,
            gross: spread(|[_, gate]| *gate)?,
            empty: spread(|[empty, _]| *empty)?,
            net: spread(|[empty, gate]| gate - empty)?,
        })
    });
    paths.collect()
}
