//! The kernel's state: gates on links, and the objects that a process holds.

use std::{collections::BTreeSet, fmt, fs, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use taskgate_bpf::{gate::AttachKind, sys};

use crate::{
    netns::{Netns, until},
    pins,
};

/// Programs, maps and links, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// The objects that a process has open.
    pub fn of_process(pid: u32) -> Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
        let mut objects = Self::default();
        for entry in fs::read_dir(&folder).with_context(|| format!("process {pid} cannot be looked at"))? {
            let text = match fs::read_to_string(entry?.path()) {
                // The descriptor was closed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text?,
            };
            for line in text.lines() {
                let Some((key, Ok(id))) = line.split_once(':').map(|(key, id)| (key, id.trim().parse())) else {
                    continue;
                };
                match key {
                    // A link names its program, too.
                    "prog_id" => objects.programs.insert(id),
                    "map_id" => objects.maps.insert(id),
                    "link_id" => objects.links.insert(id),
                    _ => false,
                };
            }
        }
        Ok(objects)
    }

    /// The objects among these that the kernel still has.
    pub fn remaining(&self) -> Result<Self> {
        let programs = ids(aya::programs::loaded_programs().map(|info| Ok(info?.id())))?;
        let maps = ids(aya::maps::loaded_maps().map(|info| Ok(info?.id())))?;
        let links = ids(aya::programs::loaded_links().map(|info| Ok(info?.id())))?;
        Ok(Self {
            programs: &self.programs & &programs,
            maps: &self.maps & &maps,
            links: &self.links & &links,
        })
    }

    pub fn program_names(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for info in aya::programs::loaded_programs() {
            let info = info?;
            if self.programs.contains(&info.id()) {
                names.insert(info.name_as_str().context("a program's name is no text")?.to_owned());
            }
        }
        Ok(names)
    }

    /// Waits until the kernel has freed all of these objects, some time after their last reference is gone.
    pub fn await_gone(&self) -> Result<()> {
        until(&format!("{self} go"), || Ok(self.remaining()? == Self::default()))
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { programs, maps, links } = self;
        write!(f, "programs {programs:?}, maps {maps:?}, links {links:?}")
    }
}

fn ids(found: impl Iterator<Item = Result<u32>>) -> Result<BTreeSet<u32>> {
    // Objects that are freed while the list is read are left out (ENOENT), as are links that are being made (EAGAIN).
    found
        .filter(|id| !matches!(id, Err(error) if is_fleeting(error)))
        .collect()
}

fn is_fleeting(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock))
}

/// The version of the kernel that runs.
pub fn version() -> Result<(u32, u32)> {
    let uname = nix::sys::utsname::uname()?;
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("a kernel of release `{release}`"),
    }
}

/// Whether the kernel reports how many instructions its verifier processed.
pub fn tells_verified() -> Result<bool> {
    Ok(version()? >= (5, 16))
}

/// The kinds of attachment that this kernel has: TCX is not in kernels before 6.6.
pub fn hooks() -> Vec<AttachKind> {
    let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    tcx.then_some(AttachKind::Tcx)
        .into_iter()
        .chain([AttachKind::Clsact])
        .collect()
}

/// How many programs are at the tc hooks of a link: where its packets come in, and where they go out.
pub fn gates(netns: &Netns, link: &str) -> Result<(usize, usize)> {
    netns.run(|| {
        // A kernel before 6.6 knows only filters. In this thread's namespace.
        let at = |hook, filter| -> Result<usize> {
            let tcx = SchedClassifier::query_tcx(link, hook).map_or(0, |(_, programs)| programs.len());
            Ok(tcx + filters(link, filter)?)
        };
        Ok((
            at(TcAttachType::Ingress, "ingress")?,
            at(TcAttachType::Egress, "egress")?,
        ))
    })
}

/// Takes sides of an instance's gate off a link, as root on the host can; `true`: that on which the link receives.
pub fn take_off(netns: &Netns, instance: &str, link: &str, sides: &[bool]) -> Result<()> {
    let links = pins::folder(instance).join("links");
    netns.run(|| {
        let ifindex = if_nametoindex(link)?;
        for ingress in sides {
            // A kernel before 6.6 knows only filters.
            for id in sys::tcx_links(ifindex, *ingress).unwrap_or_default() {
                sys::detach(sys::pinned(&links.join(id.to_string()))?.as_fd())?;
            }
        }
        Ok(())
    })?;
    for ingress in sides {
        let hook = if *ingress { "ingress" } else { "egress" };
        // Nothing to do where nothing is.
        netns.run(|| {
            let mut command = std::process::Command::new("tc");
            command.args(["filter", "del", "dev", link, hook]).output()?;
            Ok(())
        })?;
    }
    Ok(())
}

fn filters(link: &str, hook: &str) -> Result<usize> {
    let output = std::process::Command::new("tc")
        .args(["filter", "show", "dev", link, hook])
        .output()
        .context("cannot run `tc`: run `cargo xtask setup`")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter(|line| line.contains(" handle ")).count())
}

/// Waits until a link has a gate each way.
pub fn await_gates(netns: &Netns, link: &str) -> Result<()> {
    until(
        &format!("`{link}` gets its gates"),
        || Ok(gates(netns, link)? == (1, 1)),
    )
}
