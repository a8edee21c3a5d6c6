//! A host in a nutshell: a model compiled into an image, packets on links, and the state that they leave. The data path
//! over it is the pure core on plain collections ([`Host`]) or the loaded program ([`Kernel`]).

pub mod frames;
mod host;
mod kernel;
pub mod model;
mod stage;
mod state;

use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use taskgate::{
    compile::{Compiled, Gate, GroupSets, ImageWriter, RuleBook, Scope},
    model::{Eni, IcmpErrors, Model, OnRuleRemoval},
};
use taskgate_ebpf::{
    abi::{
        Direction, LinkId,
        image::{NO_CAP, Share, Shared, Timeout, control},
    },
    conntrack::default_seconds,
    host::Left,
};

pub use host::Host;
pub use kernel::Kernel;
pub use stage::{Stage, on_host_and_in_kernel};
pub use state::{State, outcome_name};

/// Ticks in a second of a scene. Not fewer than any kernel has: what really goes by never counts for more.
pub const SECOND: u32 = 1000;

/// A packet on a link.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its bytes.
    pub frame: &'a [u8],
    /// The link's ifindex.
    pub link: u32,
    /// Which gate it meets.
    pub direction: Direction,
    /// The first link of the host that received it, or 0.
    pub came_by: u32,
    /// Segments, and bytes of payload in each; 0 and 0 if it stands for itself.
    pub segments: (u32, u32),
    /// What is left to be done to it. Nobody can say that to the kernel for a test: there it is nothing.
    pub left: Left,
}

/// What faces the wire, and how a frame on it names its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// By this tag, which stands in front of the frame.
    Trunk {
        /// Priority and VLAN id.
        tag: u16,
    },
    /// By its destination.
    Routed,
}

impl Uplink {
    /// Its ifindex.
    pub const LINK: u32 = 208;
}

/// The data path over an image.
pub trait DataPath {
    /// Judges a packet: whether it goes on.
    fn judge(&mut self, sent: &Sent<'_>) -> Result<bool>;
    /// Judges a frame as the uplink receives it: whether it goes on.
    fn early(&mut self, frame: &[u8], uplink: Uplink) -> Result<bool>;
    /// The clock, in ticks.
    fn now(&mut self) -> Result<u32>;
    /// Makes every connection older.
    fn age(&mut self, ticks: u32) -> Result<()>;
    /// Empties all that it keeps.
    fn clear(&mut self) -> Result<()>;
    /// All that it keeps, of slots up to `highest`.
    fn state(&mut self, highest: u16) -> Result<State>;
}

/// The configuration in an image.
pub struct Scene<'a> {
    /// The image's writer.
    pub writer: ImageWriter<&'a [AtomicU64]>,
    /// The register of rules.
    pub book: RuleBook,
    sets: GroupSets,
    /// What was applied last.
    pub model: Model,
    /// The capture window.
    pub window: u32,
    /// The highest slot that any ENI has had.
    pub highest: u16,
}

/// What each ENI may have of connections and denied flows for certain unless a test says otherwise; of fragments an eighth.
/// There is no pool.
const FLOOR: u32 = 1000;

/// What ENIs are gated with unless a test says otherwise.
pub const GATE: Gate = Gate {
    connections: NO_CAP,
    isolated: false,
};

/// [`GATE`] for the ENIs that are bound to this host.
pub fn all_gated(eni: &Eni) -> Option<Gate> {
    eni.binding.is_some().then_some(GATE)
}

impl<'a> Scene<'a> {
    /// Takes an image, all of whose words become 0, and sets AWS's time-outs.
    pub fn new(image: &'a [AtomicU64]) -> Result<Self> {
        for word in image {
            word.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        let scene = Self {
            writer: ImageWriter::new(image)?,
            book: RuleBook::default(),
            sets: GroupSets::default(),
            model: Model::default(),
            window: 0,
            highest: 0,
        };
        for timeout in Timeout::ALL {
            let seconds = default_seconds(timeout);
            scene
                .writer
                .set_timeout(timeout, u64::from(seconds) * u64::from(SECOND));
        }
        for table in Shared::ALL {
            let floor = match table {
                Shared::Fragments => Shared::fragments(FLOOR),
                _ => FLOOR,
            };
            scene.writer.set_share(table, Share { floor, pool: 0 });
        }
        Ok(scene)
    }

    /// Says how a table is shared.
    pub fn share(&self, table: Shared, floor: u32, pool: u32) {
        self.writer.set_share(table, Share { floor, pool });
    }

    /// Compiles a model and switches to it, its settings included but for time-outs and limits. Everything is gated that
    /// `gate` has a gate for; the exempt addresses are the model's.
    pub fn apply(&mut self, model: Model, gate: &dyn Fn(&Eni) -> Option<Gate>) -> Result<()> {
        let exempt = model.exempt();
        let scope = Scope {
            gate,
            exempt: &exempt.addresses,
            dhcp: exempt.dhcp,
        };
        let compiled = Compiled::new(&model, scope, &mut self.book, &mut self.sets)?;
        self.writer.prepare(&compiled, &mut || {})?.commit();
        let errors = match model.settings.icmp_errors {
            IcmpErrors::Pmtu => control::ICMP_PMTU,
            IcmpErrors::All => control::ICMP_PMTU | control::ICMP_ALL,
            IcmpErrors::None => 0,
        };
        let cut = match model.settings.on_rule_removal {
            OnRuleRemoval::Keep => 0,
            OnRuleRemoval::Cut => control::CUT,
        };
        self.writer.set_flags(errors | cut);
        self.highest = model
            .enis
            .iter()
            .filter_map(|eni| self.writer.slot(&eni.id))
            .chain([self.highest])
            .max()
            .unwrap_or_default();
        self.model = model;
        Ok(())
    }

    /// Sets the time-outs that the model's settings have.
    pub fn set_timeouts(&self) {
        let timeouts = self.model.settings.timeouts;
        for (timeout, seconds) in [
            (Timeout::TcpEstablished, timeouts.tcp_established),
            (Timeout::Udp, timeouts.udp),
            (Timeout::UdpStream, timeouts.udp_stream),
            (
                Timeout::TcpHalfClosed,
                timeouts.tcp_established.min(default_seconds(Timeout::TcpHalfClosed)),
            ),
        ] {
            self.writer.set_timeout(timeout, u64::from(seconds) * u64::from(SECOND));
        }
    }

    /// Binds a link to an ENI: an ifindex, or a branch by the number that tables have for it.
    pub fn bind(&mut self, link: u32, eni: &str) -> Result<()> {
        let slot = self.slot(eni)?;
        Ok(self.writer.add_link(LinkId::from_number(link), slot)?)
    }

    /// Says what the link [`Uplink::LINK`] is.
    pub fn set_uplink(&self, uplink: Uplink) {
        self.writer.control().set_uplink(Uplink::LINK);
        self.writer.control().set_trunk(match uplink {
            Uplink::Trunk { .. } => Uplink::LINK,
            Uplink::Routed => 0,
        });
    }

    /// The slot of an ENI.
    pub fn slot(&self, eni: &str) -> Result<u16> {
        self.writer.slot(eni).with_context(|| format!("`{eni}` has no slot"))
    }

    /// Begins another capture window.
    pub fn set_window(&mut self, window: u32) {
        self.window = window;
        self.writer.set_window(window.into());
    }
}
