//! The uplink's link and the trunk's gate.
//!
//! The gate of a trunk that the configuration no longer names stays attached, so that the former branches are not open.
//! The image names it as the previous trunk, so that the host's own, untagged frames still pass.

use taskgate_bpf::gate::{AttachKind, Gate, GateError, GateProgram, GatePrograms, Place, link_id};
use taskgate_model::{Uplink, UplinkMode};
use taskgate_net::{
    link::{Link, name_of},
    watch::LinkWatch,
};
use taskgate_tables::image::ImageControl;
use tracing::{info, warn};

use super::moved::{self, place};
use crate::{
    error::{AttachError, chain},
    image::ImageMemory,
};

/// The uplink and the trunks: the links that face the physical network.
#[derive(Debug)]
pub(super) struct Uplinks {
    control: ImageControl<ImageMemory>,
    /// The configured uplink.
    wanted: Option<Uplink>,
    active: Option<ActiveUplink>,
    /// Gates of previous trunks, which stay closed until their links go. The image names the last one.
    previous: Vec<Gate>,
    /// Whether the absence of the link was already logged.
    awaited: bool,
}

/// An uplink whose link exists.
#[derive(Debug)]
struct ActiveUplink {
    link: Link,
    /// The gate, if the uplink is a trunk.
    gate: Option<Gate>,
}

impl Uplinks {
    pub(super) fn new(control: ImageControl<ImageMemory>) -> Self {
        Self {
            control,
            wanted: None,
            active: None,
            previous: Vec::new(),
            awaited: false,
        }
    }

    /// Whether a trunk is gated.
    pub(super) fn has_trunk(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.gate.is_some())
    }

    /// The trunk's gate.
    pub(super) fn trunk_gate(&self) -> Option<&Gate> {
        self.active.as_ref()?.gate.as_ref()
    }

    /// The gates of the trunk and of previous trunks.
    pub(super) fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.trunk_gate().into_iter().chain(&self.previous)
    }

    /// How the trunk's gate is attached.
    pub(super) fn trunk_hook(&self) -> Option<AttachKind> {
        Some(self.active.as_ref()?.gate.as_ref()?.hook())
    }

    /// The device of the trunk that the configuration names.
    pub(super) fn trunk(&self) -> Option<&str> {
        let wanted = self.wanted.as_ref();
        wanted
            .filter(|uplink| uplink.mode == UplinkMode::Trunk)
            .map(|uplink| &*uplink.device)
    }

    /// The uplink's link, if it exists.
    pub(super) fn link(&self) -> Option<&Link> {
        self.active.as_ref().map(|active| &active.link)
    }

    /// Whether a link has the gate of the trunk or of a previous trunk.
    pub(super) fn holds(&self, ifindex: u32) -> bool {
        self.gates().any(|gate| gate.link().ifindex == ifindex)
    }

    /// Whether this is the name of the configured uplink.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_some_and(|uplink| uplink.device == name)
    }

    /// Sets the uplink that a configuration names, and releases a different one.
    pub(super) fn desire(&mut self, uplink: Option<Uplink>) {
        if self.wanted != uplink {
            self.release();
            self.wanted = uplink;
            self.awaited = false;
        }
    }

    /// Brings up the configured uplink if it is not up and its link exists. `is_task`: whether a link has a task's
    /// gate.
    pub(super) fn establish(
        &mut self,
        programs: &GatePrograms,
        watch: &LinkWatch,
        is_task: &dyn Fn(u32) -> bool,
    ) -> Result<(), AttachError> {
        let Some(Uplink { device, mode }) = self.wanted.clone() else {
            return Ok(());
        };
        let Some((ifindex, known)) = watch.link(&device) else {
            if self.active.is_none() && !self.awaited {
                info!(link = device, "the uplink is gated as soon as link `{device}` is there");
                self.awaited = true;
            }
            return Ok(());
        };
        if let Some(active) = &self.active {
            if active.link.ifindex == ifindex {
                return Ok(());
            }
            // Another link has the uplink's name now.
            self.release();
        }
        let link = match known.uplink() {
            Ok(link) => link,
            Err(cause) => return Err(AttachError::Uplink { device, cause }),
        };
        if is_task(ifindex) {
            return Err(sides(link));
        }
        let gate = match mode {
            UplinkMode::Routed => None,
            UplinkMode::Trunk => Some(self.attach(programs, &link)?),
        };
        self.control.set_uplink(ifindex);
        self.active = Some(ActiveUplink { link, gate });
        Ok(())
    }

    /// Keeps the gates of links that were trunks of an earlier process and no longer are: they carry the host's own
    /// frames.
    pub(super) fn inherit(&mut self, programs: &GatePrograms, watch: &LinkWatch, trunks: Vec<u32>) {
        for ifindex in trunks {
            if ifindex == 0 || self.holds(ifindex) {
                continue;
            }
            let name = name_of(ifindex);
            let found = name.ok().and_then(|name| watch.link(&name));
            let Some(Ok(link)) = found.map(|(_, known)| known.uplink()) else {
                continue;
            };
            self.control.set_previous_trunk(ifindex);
            match programs.attach(&link, GateProgram::Judge) {
                Ok(gate) => self.previous.insert(0, gate),
                Err(error) => warn!(link = link.name, "{}", chain(&error)),
            }
        }
        self.name_previous();
    }

    /// Attaches the trunk's gate. The image names the trunk first, so that the host's own frames pass from the gate's
    /// first moment.
    fn attach(&mut self, programs: &GatePrograms, link: &Link) -> Result<Gate, AttachError> {
        let attached = link_id(link).and_then(|id| {
            self.control.set_trunk(id.get());
            programs.attach(link, GateProgram::Judge)
        });
        let gate = attached.map_err(|cause| {
            self.control.set_trunk(0);
            AttachError::Trunk {
                device: link.name.clone(),
                cause,
            }
        })?;
        self.previous.retain(|gate| gate.link().ifindex != link.ifindex);
        self.name_previous();
        info!(link = link.name, "trunk `{}` is gated", link.name);
        Ok(gate)
    }

    /// Releases an uplink that the configuration no longer names; a trunk's gate stays attached.
    fn release(&mut self) {
        let Some(ActiveUplink { link, gate }) = self.active.take() else {
            return;
        };
        match gate {
            None => info!(link = link.name, "link `{}` is no longer the uplink", link.name),
            Some(gate) => {
                warn!(
                    link = link.name,
                    "link `{}` is no longer the trunk: it passes no tagged frame until it goes, or `taskgate cleanup` takes its gate off",
                    link.name
                );
                self.previous.push(gate);
            }
        }
        self.name_previous();
        self.control.set_trunk(0);
        self.control.set_uplink(0);
    }

    /// Writes the last previous trunk to the image. Trunks before it pass nothing.
    fn name_previous(&self) {
        let Some((last, before)) = self.previous.split_last() else {
            self.control.set_previous_trunk(0);
            return;
        };
        self.control.set_previous_trunk(last.link().ifindex);
        for gate in before {
            warn!(
                link = gate.link().name,
                "link `{}` was a trunk before `{}` was: it passes nothing until it goes, or `taskgate cleanup` takes its gate off",
                gate.link().name,
                last.link().name
            );
        }
    }

    /// Checks whether a link that is or was the uplink is still here. `is_there`: whether any link has its number;
    /// `same`: whether that link is the same one. Returns the gates of links that moved away.
    pub(super) fn check(&mut self, ifindex: u32, is_there: bool, same: bool) -> Vec<Gate> {
        let mut away = Vec::new();
        let before = self.previous.len();
        self.previous
            .retain(|gate| gate.link().ifindex != ifindex || stays(gate, same, &mut away));
        if self.previous.len() != before {
            self.name_previous();
        }
        let gone = self.active.take_if(|active| {
            active.link.ifindex == ifindex
                && match &active.gate {
                    Some(gate) => !stays(gate, same, &mut away),
                    None => !is_there,
                }
        });
        if let Some(ActiveUplink { link, .. }) = gone {
            // Another link may get this ifindex.
            self.control.set_trunk(0);
            self.control.set_uplink(0);
            info!(link = link.name, "uplink `{}` is gone", link.name);
        }
        away
    }

    /// Logs that the uplink was renamed, if this link is the uplink and lost this name.
    pub(super) fn lost_name(&self, ifindex: u32, name: &str) {
        if self.wants(name) && self.link().is_some_and(|link| link.ifindex == ifindex) {
            warn!(
                link = name,
                "uplink `{name}` has another name now, and stays the uplink until there is one of that name"
            );
        }
    }
}

/// Whether a gate's link is here. Gates of links that moved away are added to `away`, to be closed.
fn stays(gate: &Gate, same: bool, away: &mut Vec<Gate>) -> bool {
    let place = place(gate);
    if place == Place::Elsewhere {
        away.push(gate.clone());
    }
    moved::stays(place, same)
}

pub(super) fn sides(link: Link) -> AttachError {
    AttachError::Trunk {
        device: link.name.clone(),
        cause: GateError::Sides {
            link: link.name,
            has: "a task",
            wants: "the uplink",
        },
    }
}
