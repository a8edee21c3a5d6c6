//! The uplink's prefilter. Without it nothing is open: the gates behind it reach the same verdicts.

use std::io;

use taskgate_bpf::{
    object::BpfObject,
    prefilter::{PrefilterMode, XdpPrefilter},
};
use taskgate_model::UplinkMode;
use taskgate_net::{
    link::{Link, name_of},
    tags::VlanOffload,
};
use tracing::{info, warn};

use super::error::chain;

/// The prefilter of the uplink, while the uplink's link exists.
#[derive(Debug, Default)]
pub(super) struct PrefilteredUplink(Option<Prefiltered>);

#[derive(Debug)]
struct Prefiltered {
    link: Link,
    mode: UplinkMode,
    /// Declared before `_tags`, so that the prefilter is detached before VLAN offload, which it needs off, is restored.
    prefilter: Option<XdpPrefilter>,
    _tags: Option<VlanOffload>,
}

impl PrefilteredUplink {
    /// Attaches the prefilter to this link, and detaches it from any other.
    pub(super) fn reconcile(&mut self, object: &mut BpfObject, uplink: Option<(Link, UplinkMode)>) {
        let stays = |active: &Prefiltered| {
            let same = |(link, mode): &(Link, UplinkMode)| (link.ifindex, *mode) == (active.link.ifindex, active.mode);
            let is_there = |prefilter: &XdpPrefilter| prefilter.is_gone().is_ok_and(|gone| !gone);
            uplink.as_ref().is_some_and(same) && active.prefilter.as_ref().is_none_or(is_there)
        };
        if self.0.as_ref().is_some_and(stays) {
            return;
        }
        self.0 = None;
        if let Some((link, mode)) = uplink {
            let (prefilter, tags) = attach(object, &link, mode);
            self.0 = Some(Prefiltered {
                link,
                mode,
                prefilter,
                _tags: tags,
            });
        }
    }

    /// The name of the link that lost its prefilter, if the link still exists.
    pub(super) fn lost(&self) -> io::Result<Option<String>> {
        let Some(Prefiltered {
            link,
            prefilter: Some(prefilter),
            ..
        }) = &self.0
        else {
            return Ok(None);
        };
        let lost = prefilter.is_gone()? && name_of(link.ifindex).is_ok();
        Ok(lost.then(|| link.name.clone()))
    }

    /// Attaches the prefilter again if it was detached.
    pub(super) fn restore(&mut self, object: &mut BpfObject) {
        let uplink = self.0.as_ref().map(|active| (active.link.clone(), active.mode));
        self.reconcile(object, uplink);
    }
}

/// Attaches the prefilter where possible, and logs how, or why not.
fn attach(object: &mut BpfObject, link: &Link, mode: UplinkMode) -> (Option<XdpPrefilter>, Option<VlanOffload>) {
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
        Some(VlanOffload::TurnedOff(_)) => {
            info!(link = name, "uplink `{name}`: VLAN offload is off while taskgate runs");
        }
        Some(VlanOffload::InFrames) | None => {}
    }
    match object.attach_prefilter(link) {
        Ok(prefilter) => {
            match prefilter.mode() {
                PrefilterMode::Native => info!(
                    link = name,
                    "uplink `{name}`: what is denied is dropped early, by its driver (XDP)"
                ),
                PrefilterMode::Generic(error) => info!(
                    link = name,
                    "uplink `{name}`: what is denied is dropped early, by the kernel (generic XDP): its driver does \
                     not ({error})"
                ),
            }
            (Some(prefilter), tags)
        }
        Err(error) => {
            late(&chain(&error));
            (None, None)
        }
    }
}
