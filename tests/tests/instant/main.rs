//! One instant: every packet is judged by one whole configuration, however many members there are and however often the
//! configuration is switched; a configuration that does not fit changes nothing. All through the loaded program.

mod members;
mod mixture;

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, bail};
use taskgate_bpf::{
    load::LoadOptions,
    object::BpfObject,
    sys::{self, MmapArray, TestPacket, test_run},
    tables::KernelTables,
};
use taskgate_compiler::{CompileOptions, Compiled, EniLimits, GroupSetIds, ImageSize, ImageWriter, RuleIds};
use taskgate_ebpf::abi::{
    Direction, LinkId,
    image::{Share, Shared, Timeout, control},
    program,
};
use taskgate_ebpf::conntrack::default_seconds;
use taskgate_model::{Eni, Model};
use testkit::{
    fixture::{NO_LIMITS, SECOND, frames},
    sandbox::ip,
};

/// The link of the task.
const LINK: u32 = 101;
const TASK4: &str = "10.9.0.5";
const TASK6: &str = "2001:db8:9::5";
/// The room for connections and for denied flows.
const ROOM: u32 = 200_000;

fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A configuration besides its model.
#[derive(Clone, Copy, Default)]
struct Scope<'a> {
    exempt: &'a [IpAddr],
    isolated: bool,
}

/// The loaded program, and the writer of its image.
struct Loaded {
    object: BpfObject,
    tables: KernelTables,
    image: MmapArray<AtomicU64>,
}

impl Loaded {
    /// Loads the program with room for the members of `size`, and makes the task's link. Must be called in a sandbox.
    fn new(size: ImageSize) -> Result<Self> {
        ip(&format!("link add task index {LINK} type veth peer name peer"))?;
        let object = BpfObject::load(&LoadOptions {
            conns: ROOM,
            denials: ROOM,
            slots: 64,
            member_banks: size.member_banks,
            policy_banks: size.policy_banks,
            ..LoadOptions::default()
        })?;
        Ok(Self {
            image: object.image()?,
            tables: KernelTables::new(&object)?,
            object,
        })
    }

    fn program(&self, direction: Direction) -> Result<OwnedFd> {
        let name = match direction {
            Direction::Egress => program::FROM_TASK,
            Direction::Ingress => program::TO_TASK,
        };
        Ok(self.object.program(name)?)
    }

    /// No flow is remembered any more.
    fn forget_flows(&self) -> Result<()> {
        let usage = self.object.usage()?;
        let ((v4, v6), (d4, d6)) = (self.tables.raw_conns(), self.tables.raw_denials());
        v4.clear();
        v6.clear();
        d4.clear();
        d6.clear();
        for word in usage.iter() {
            word.store(0, Relaxed);
        }
        Ok(())
    }
}

/// The writer of an image, with the registers that outlive a generation.
struct Writer<'a> {
    image: ImageWriter<&'a [AtomicU64]>,
    rule_ids: RuleIds,
    sets: GroupSetIds,
}

impl<'a> Writer<'a> {
    fn new(image: &'a [AtomicU64], size: ImageSize) -> Result<Self> {
        let image = ImageWriter::with_members(image, size.member_banks)?;
        for timeout in Timeout::ALL {
            let seconds = default_seconds(timeout);
            image.control().set_timeout(timeout, seconds * SECOND);
        }
        for table in Shared::ALL {
            image.control().set_share(table, Share { floor: ROOM, pool: 0 });
        }
        image.control().set_flags(control::CUT);
        Ok(Self {
            image,
            rule_ids: RuleIds::default(),
            sets: GroupSetIds::default(),
        })
    }

    fn compile(&mut self, model: &Model, scope: Scope<'_>) -> Result<Compiled> {
        let limits = EniLimits {
            isolated: scope.isolated,
            ..NO_LIMITS
        };
        let gate = |eni: &Eni| eni.binding.is_some().then_some(limits);
        let options = CompileOptions {
            gate: &gate,
            exempt: scope.exempt,
            dhcp: false,
        };
        Ok(Compiled::new(model, options, &mut self.rule_ids, &mut self.sets)?)
    }

    /// Switches, and waits for the kernel wherever words are used again.
    fn switch(&mut self, compiled: &Compiled) -> Result<u64> {
        let mut waited = Ok(());
        let mut grace = || waited = sys::wait_grace_period();
        let generation = self.image.prepare(compiled, &mut grace)?.commit();
        waited.context("no grace period")?;
        Ok(generation)
    }

    /// Binds the task's link.
    fn bind(&mut self) -> Result<()> {
        let slot = self.image.slot("task").context("the task has no slot")?;
        self.image.control().set_mac(slot, Some(frames::TASK_MAC));
        Ok(self.image.add_link(LinkId::device(LINK), slot)?)
    }
}

/// Whether a packet passes a gate of the task.
fn passes(program: &OwnedFd, frame: &[u8]) -> Result<bool> {
    const PASS: u32 = u32::MAX;
    const SHOT: u32 = 2;
    let packet = TestPacket {
        frame,
        ifindex: LINK,
        ..TestPacket::default()
    };
    match test_run(program.as_fd(), &packet, 1)?.returned {
        PASS => Ok(true),
        SHOT => Ok(false),
        other => bail!("the program returned {other}"),
    }
}

/// A SYN.
fn syn(from: IpAddr, port: u16, to: IpAddr, to_port: u16) -> Vec<u8> {
    frames::ip(from, to, 6, &frames::tcp(port, to_port, frames::flags::SYN, b""))
}
