//! The prefilter: attached, detached, and removed with its link.

use anyhow::{Result, ensure};
use taskgate_bpf::{object::BpfObject, prefilter::PrefilterMode};
use taskgate_ebpf::abi::program;
use taskgate_net::{
    netlink::Netlink,
    sys::{VlanSwitch, turn_vlan_switch, vlan_switch},
    tags::VlanOffload,
};
use testkit::{
    netns::until,
    sandbox::{ip, sandbox},
};

use crate::SMALL;

/// The most verified instructions of a program (docs/performance.md).
const BUDGET: u32 = 250_000;

#[test]
fn it_is_loaded_when_it_is_asked_for() -> Result<()> {
    let mut object = BpfObject::load(&SMALL)?;
    let names = |object: &BpfObject| -> Result<Vec<_>> {
        let verified = object.verified_instructions()?;
        Ok(verified.into_iter().map(|(name, _)| name).collect())
    };
    ensure!(names(&object)? == BpfObject::PROGRAMS);
    let early = object.load_prefilter()?;
    ensure!([program::PREFILTER, program::PREFILTER_LINEAR].contains(&early));
    ensure!(object.load_prefilter()? == early);
    ensure!(names(&object)?.last() == Some(&early));
    let verified = object.verified_instructions()?;
    let (_, instructions) = verified[verified.len() - 1];
    ensure!(
        instructions.is_none_or(|count| (1..=BUDGET).contains(&count)),
        "{instructions:?}"
    );
    Ok(())
}

/// Kernels from 5.18 on accept the program for older ones, too.
#[test]
fn the_program_for_older_kernels_is_taken() -> Result<()> {
    sandbox(async || {
        ip("link add native type veth peer name far")?;
        let mut object = BpfObject::load(&SMALL)?;
        ensure!(object.load_prefilter_linear()? == program::PREFILTER_LINEAR);
        let early = object.attach_prefilter(&Netlink::open()?.uplink("native").await?)?;
        ensure!(early.program() == program::PREFILTER_LINEAR && matches!(early.mode(), PrefilterMode::Native));
        Ok(())
    })
}

#[test]
fn it_is_native_where_the_driver_takes_it_and_generic_elsewhere() -> Result<()> {
    sandbox(async || {
        ip("link add native type veth peer name far")?;
        ip("link add generic type dummy").or_else(|_| ip("link add generic type bridge"))?;
        let netlink = Netlink::open()?;
        let mut object = BpfObject::load(&SMALL)?;
        for (name, native) in [("native", true), ("generic", false)] {
            let link = netlink.uplink(name).await?;
            let shown = || Ok::<_, anyhow::Error>(ip(&format!("-d link show dev {name}"))?.contains("xdp"));
            let early = object.attach_prefilter(&link)?;
            ensure!(
                matches!(early.mode(), PrefilterMode::Native) == native,
                "{:?}",
                early.mode()
            );
            ensure!(early.link() == &link && !early.is_gone()? && shown()?);
            // A link has room for one prefilter.
            let error = object.attach_prefilter(&link).unwrap_err().to_string();
            let program = early.program();
            ensure!(
                error.starts_with(&format!(
                    "program `{program}` cannot be attached to link `{name}`, natively ("
                )),
                "{error}"
            );
            drop(early);
            ensure!(!shown()?);
            let early = object.attach_prefilter(&link)?;
            ip(&format!("link delete {name}"))?;
            until("it goes with its link", || Ok(early.is_gone()?))?;
        }
        Ok(())
    })
}

#[test]
fn tags_are_brought_into_the_frames_and_back() -> Result<()> {
    sandbox(async || {
        ip("netns add there")?;
        ip("link add trunk type veth peer name far")?;
        ip("link add away type veth peer name eth0 netns there")?;
        ip("link add plain type bridge")?;
        let netlink = Netlink::open()?;
        let trunk = netlink.uplink("trunk").await?;
        let beside = || vlan_switch("far", VlanSwitch::Transmit);
        ensure!(beside()?);
        let tags = VlanOffload::in_frames(&trunk);
        ensure!(matches!(tags, VlanOffload::TurnedOff(_)) && !beside()?);
        // A switch turned by another guard is not turned back.
        let second = VlanOffload::in_frames(&trunk);
        ensure!(matches!(second, VlanOffload::InFrames));
        drop(second);
        ensure!(!beside()?);
        ip("link set dev far name other-far")?;
        drop(tags);
        ensure!(vlan_switch("other-far", VlanSwitch::Transmit)?);
        ensure!(matches!(
            VlanOffload::in_frames(&netlink.uplink("away").await?),
            VlanOffload::Unknown
        ));
        ensure!(matches!(
            VlanOffload::in_frames(&netlink.uplink("plain").await?),
            VlanOffload::InFrames
        ));
        // A switch that cannot be turned stays, with an error.
        let error = turn_vlan_switch("plain", VlanSwitch::Receive, true);
        ensure!(error.is_err() && !vlan_switch("plain", VlanSwitch::Receive)?);
        ensure!(vlan_switch("none", VlanSwitch::Receive).is_err());
        Ok(())
    })
}
