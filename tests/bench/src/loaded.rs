//! A loaded kernel program with the configuration of a host.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::{
    gate::{AttachKind, Gate},
    load::LoadOptions,
    object::BpfObject,
    tables::KernelTables,
};
use taskgate_ebpf::abi::image::Shared;
use taskgate_model::Model;
use taskgate_net::link::Link;
use taskgate_tables::FlowTables as _;

use super::rules::{self, GATED, NO_LIMITS};
use testkit::{fixture::Fixture, sandbox::ip_batch};

/// The loaded program, its tables empty, and its image filled.
pub struct LoadedFixture {
    object: BpfObject,
    tables: KernelTables,
}

/// Packets that tables have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of tracked connections.
    pub tracked: u64,
    /// Of denied flows.
    pub denied: u64,
}

/// The link of the gated ENI at this place.
pub fn link(place: usize) -> u32 {
    101 + place as u32
}

/// The other end of the link at this place.
pub fn other(place: usize) -> u32 {
    link(place) + 100
}

/// The name of the link with this number.
pub fn name(link: u32) -> String {
    format!("tg{link}")
}

/// Makes the links of all gated ENIs. To be called in a sandbox, once.
pub fn make_links() -> Result<()> {
    let lines = (0..GATED).map(|place| {
        let (link, other) = (link(place), other(place));
        let (name, other_name) = (name(link), name(other));
        format!("link add {name} index {link} type veth peer name {other_name} index {other}")
    });
    ip_batch(&lines.collect::<Vec<_>>().join("\n"))
}

impl LoadedFixture {
    /// Loads the program, as the daemon does except for the room for connections, and configures a host with this many
    /// members of the group that rules refer to.
    pub fn load(conns: u32, members: u32) -> Result<Self> {
        let links: Vec<_> = (0..GATED).map(|place| (link(place), rules::eni(place))).collect();
        Self::of(conns, rules::host(members), &links, 0)
    }

    /// [`Self::load`] with another model; `links` are the numbers of the links of its bound ENIs, as in the tables.
    /// `trunk`: its ifindex, or 0.
    pub fn of(conns: u32, model: Model, links: &[(u32, String)], trunk: u32) -> Result<Self> {
        let options = LoadOptions {
            conns,
            ..LoadOptions::default()
        };
        let object = BpfObject::load(&options).context("cannot load the kernel program: run this as root")?;
        let tables = KernelTables::new(&object)?;
        let image = object.image()?;
        let mut fixture = Fixture::new(&image)?;
        // The fixture has cleared all words, and its writer starts with an empty image.
        fixture.apply(model, &|eni| eni.binding.is_some().then_some(NO_LIMITS))?;
        for table in Shared::ALL {
            fixture.share(table, u32::MAX, 0);
        }
        for (link, eni) in links {
            fixture.bind(*link, eni)?;
        }
        fixture.writer.control().set_trunk(trunk);
        fixture.set_window(1);
        Ok(Self { object, tables })
    }

    pub fn object(&self) -> &BpfObject {
        &self.object
    }

    /// Loads the prefilter too, and returns its program's name.
    pub fn load_prefilter(&mut self) -> Result<&'static str> {
        Ok(self.object.load_prefilter()?)
    }

    pub fn program(&self, name: &'static str) -> Result<OwnedFd> {
        Ok(self.object.program(name)?)
    }

    /// Puts a gate on a link.
    pub fn attach(&mut self, link: &Link) -> Result<Gate> {
        Ok(self.object.attach(link)?)
    }

    /// Attaches a gate to a link by this kind of hook.
    pub fn attach_by(&mut self, link: &Link, hook: AttachKind) -> Result<Gate> {
        Ok(self.object.attach_by(link, hook)?)
    }

    pub fn counted(&mut self) -> Result<Counted> {
        let mut counted = Counted::default();
        self.tables.conns(&mut |conn| {
            counted.tracked += conn.state.totals.iter().map(|count| count.packets).sum::<u64>();
        })?;
        self.tables
            .denials(&mut |_, _, denial| counted.denied += denial.totals.packets)?;
        Ok(counted)
    }

    /// The number of tracked connections.
    pub fn conns(&mut self) -> Result<u64> {
        let mut conns = 0;
        self.tables.conns(&mut |_| conns += 1)?;
        Ok(conns)
    }

    /// Removes all tracked connections, as the daemon does, and returns their number.
    pub fn forget_conns(&mut self) -> Result<u64> {
        let mut ids = Vec::new();
        self.tables.conns(&mut |conn| ids.push(conn.id))?;
        self.tables.mark_conns(&ids)?;
        for id in &ids {
            ensure!(self.tables.freeze_conn(*id)?.is_some(), "a connection went by itself");
            self.tables.free_conn(*id)?;
        }
        Ok(ids.len() as u64)
    }
}
