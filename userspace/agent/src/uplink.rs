//! The uplink's early verdict. Without it nothing is open: the gates behind it judge the same.

use taskgate_bpf::{
    early::{Early, EarlyMode},
    object::Object,
};
use taskgate_model::UplinkMode;
use taskgate_net::{link::Link, tags::VlanOffload};
use tracing::{info, warn};

use super::error::chain;

/// What drops early at the uplink that is there.
#[derive(Debug, Default)]
pub(super) struct EarlyUplink(Option<ActiveUplink>);

#[derive(Debug)]
struct ActiveUplink {
    link: Link,
    mode: UplinkMode,
    /// Before the switch that it needs off.
    early: Option<Early>,
    _tags: Option<VlanOffload>,
}

impl EarlyUplink {
    /// Has the early verdict on this link, and on no other.
    pub(super) fn follow(&mut self, object: &mut Object, uplink: Option<(Link, UplinkMode)>) {
        let stays = |standing: &ActiveUplink| {
            let same =
                |(link, mode): &(Link, UplinkMode)| (link.ifindex, *mode) == (standing.link.ifindex, standing.mode);
            let is_there = |early: &Early| early.is_gone().is_ok_and(|gone| !gone);
            uplink.as_ref().is_some_and(same) && standing.early.as_ref().is_none_or(is_there)
        };
        if self.0.as_ref().is_some_and(stays) {
            return;
        }
        self.0 = None;
        if let Some((link, mode)) = uplink {
            let (early, tags) = early(object, &link, mode);
            self.0 = Some(ActiveUplink {
                link,
                mode,
                early,
                _tags: tags,
            });
        }
    }
}

/// The early verdict, where it can be had.
fn early(object: &mut Object, link: &Link, mode: UplinkMode) -> (Option<Early>, Option<VlanOffload>) {
    let name = &link.name;
    let late = |why: &str| {
        warn!(
            link = name,
            "uplink `{name}`: nothing is dropped early, the gates behind it judge alone: {why}"
        );
    };
    let tags = match mode {
        UplinkMode::Routed => None,
        UplinkMode::Trunk => Some(VlanOffload::in_frames(link)),
    };
    match &tags {
        Some(VlanOffload::Beside(error)) => {
            late(&format!(
                "its VLAN tags are not in its frames, and that cannot be changed: {error}"
            ));
            return (None, None);
        }
        Some(VlanOffload::Unknown) => info!(
            link = name,
            "uplink `{name}`: its other end is in another network namespace; what that sends with tags beside its \
             frames (ethtool's `txvlan`) is not dropped early"
        ),
        Some(VlanOffload::Turned(_)) => info!(link = name, "uplink `{name}`: VLAN offload is off while taskgate runs"),
        Some(VlanOffload::InFrames) | None => {}
    }
    match object.attach_early(link) {
        Ok(early) => {
            match early.mode() {
                EarlyMode::Native => info!(
                    link = name,
                    "uplink `{name}`: what is denied is dropped early, by its driver (XDP)"
                ),
                EarlyMode::Generic(error) => info!(
                    link = name,
                    "uplink `{name}`: what is denied is dropped early, by the kernel (generic XDP): its driver does \
                     not ({error})"
                ),
            }
            (Some(early), tags)
        }
        Err(error) => {
            late(&chain(&error));
            (None, None)
        }
    }
}
