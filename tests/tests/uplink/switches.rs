//! XDP finds a VLAN tag only in the frame. If a link would move it into the metadata, taskgate turns that off while it
//! runs.

use anyhow::Result;
use taskgate_net::sys::{VlanSwitch, turn_vlan_switch, vlan_switch};

use super::{
    place::{Far, Judge, Place},
    trunk::branches,
};

#[test]
fn the_other_end_of_a_trunk_puts_tags_into_its_frames_while_taskgate_runs() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Here)?;
    let host = &place.topology.host;
    let beside = || host.run(|| Ok(vlan_switch("far", VlanSwitch::Transmit)?));
    for was in [true, false] {
        host.run(|| Ok(turn_vlan_switch("far", VlanSwitch::Transmit, was)?))?;
        let mut daemon = place.start(&branches(place.config()))?;
        assert!(!beside()?);
        // A reload that leaves the uplink unchanged, and one that removes it.
        daemon.apply(&branches(place.config()))?;
        assert!(!beside()?);
        daemon.apply(&place.topology.config())?;
        assert_eq!(beside()?, was);
        daemon.apply(&branches(place.config()))?;
        assert!(!beside()?);
        daemon.stop()?;
        assert_eq!(beside()?, was);
    }
    Ok(())
}

/// Nothing is turned where nothing would be dropped early anyway.
#[test]
fn a_trunk_without_early_verdict_keeps_its_switches() -> Result<()> {
    let place = Place::new(Judge::Gate, Far::Here)?;
    let daemon = place.start(&branches(place.config()))?;
    let beside = || {
        place
            .topology
            .host
            .run(|| Ok(vlan_switch("far", VlanSwitch::Transmit)?))
    };
    assert!(beside()?);
    daemon.stop()?;
    assert!(beside()?);
    Ok(())
}
