//! The uplink's link and the trunk's gate.
//!
//! The gate of a trunk that the configuration no longer names stays, so that what were branches is not open. The image
//! names it as the former one, so that the host's own frames, which have no tag, go on.

use taskgate_bpf::gate::{Gate, GateError, GateProgram, GatePrograms, Place, link_id};
use taskgate_model::{Uplink, UplinkMode};
use taskgate_net::{link::Link, watch::LinkWatch};
use taskgate_tables::image::ImageControl;
use tracing::{info, warn};

use super::links::place;
use crate::{error::AttachError, image::ImageMemory};

/// What faces the wire.
#[derive(Debug)]
pub(super) struct Uplinks {
    control: ImageControl<ImageMemory>,
    /// What the configuration says.
    wanted: Option<Uplink>,
    standing: Option<ActiveUplink>,
    /// Gates of former trunks, closed until their links go. The image names the last one.
    former: Vec<Gate>,
    /// Whether it was said that there is no such link.
    awaited: bool,
}

/// An uplink whose link is there.
#[derive(Debug)]
struct ActiveUplink {
    link: Link,
    /// On a trunk.
    gate: Option<Gate>,
}

impl Uplinks {
    pub(super) fn new(control: ImageControl<ImageMemory>) -> Self {
        Self {
            control,
            wanted: None,
            standing: None,
            former: Vec::new(),
            awaited: false,
        }
    }

    /// Whether a trunk's gate stands.
    pub(super) fn has_trunk(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.gate.is_some())
    }

    /// The device of the trunk that the configuration names.
    pub(super) fn trunk(&self) -> Option<&str> {
        let wanted = self.wanted.as_ref();
        wanted
            .filter(|uplink| uplink.mode == UplinkMode::Trunk)
            .map(|uplink| &*uplink.device)
    }

    /// The uplink's link, if it is there.
    pub(super) fn link(&self) -> Option<&Link> {
        self.standing.as_ref().map(|standing| &standing.link)
    }

    /// Whether a link has, or had, a trunk's gate.
    pub(super) fn holds(&self, ifindex: u32) -> bool {
        let current = self.standing.as_ref().and_then(|standing| standing.gate.as_ref());
        current
            .into_iter()
            .chain(&self.former)
            .any(|gate| gate.link().ifindex == ifindex)
    }

    /// Whether this is the name of the link that is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_some_and(|uplink| uplink.device == name)
    }

    /// Takes over what a configuration says.
    pub(super) fn desire(&mut self, uplink: Option<Uplink>) {
        if self.wanted != uplink {
            self.dismiss();
            self.wanted = uplink;
            self.awaited = false;
        }
    }

    /// Brings up what is wanted and does not stand, if its link is there. `is_task`: whether a link has a task's gate.
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
            if self.standing.is_none() && !self.awaited {
                info!(link = device, "the uplink is gated as soon as link `{device}` is there");
                self.awaited = true;
            }
            return Ok(());
        };
        if let Some(standing) = &self.standing {
            if standing.link.ifindex == ifindex {
                return Ok(());
            }
            // Another link has its name now.
            self.dismiss();
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
        self.standing = Some(ActiveUplink { link, gate });
        Ok(())
    }

    /// The trunk's gate. The image names the trunk first, so that the host's own frames pass from the gate's first moment.
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
        self.former.retain(|gate| gate.link().ifindex != link.ifindex);
        self.name_former();
        info!(link = link.name, "trunk `{}` is gated", link.name);
        Ok(gate)
    }

    /// Lets go of an uplink that the configuration no longer names; a trunk's gate stays.
    fn dismiss(&mut self) {
        let Some(ActiveUplink { link, gate }) = self.standing.take() else {
            return;
        };
        match gate {
            None => info!(link = link.name, "link `{}` is no longer the uplink", link.name),
            Some(gate) => {
                warn!(
                    link = link.name,
                    "link `{}` is no longer the trunk: it passes no tagged frame until it goes, or taskgate is started anew",
                    link.name
                );
                self.former.push(gate);
            }
        }
        self.name_former();
        self.control.set_trunk(0);
        self.control.set_uplink(0);
    }

    /// Has the image name the link that was the trunk last. One that was it before passes nothing.
    fn name_former(&self) {
        let Some((last, before)) = self.former.split_last() else {
            self.control.set_previous_trunk(0);
            return;
        };
        self.control.set_previous_trunk(last.link().ifindex);
        for gate in before {
            warn!(
                link = gate.link().name,
                "link `{}` was a trunk before `{}` was: it passes nothing until it goes, or taskgate is started anew",
                gate.link().name,
                last.link().name
            );
        }
    }

    /// Looks whether a link that is or was the uplink is still here; `is_there`: whether any link has its number. Gives the
    /// gates of those that moved away.
    pub(super) fn check(&mut self, ifindex: u32, is_there: bool) -> Vec<Gate> {
        let mut away = Vec::new();
        let before = self.former.len();
        self.former
            .retain(|gate| gate.link().ifindex != ifindex || stays(gate, &mut away));
        if self.former.len() != before {
            self.name_former();
        }
        let gone = self.standing.take_if(|standing| {
            standing.link.ifindex == ifindex
                && match &standing.gate {
                    Some(gate) => !stays(gate, &mut away),
                    None => !is_there,
                }
        });
        if let Some(ActiveUplink { link, .. }) = gone {
            // Another link may get its number.
            self.control.set_trunk(0);
            self.control.set_uplink(0);
            info!(link = link.name, "uplink `{}` is gone", link.name);
        }
        away
    }

    /// A link has this name no more.
    pub(super) fn lost_name(&self, ifindex: u32, name: &str) {
        if self.wants(name) && self.link().is_some_and(|link| link.ifindex == ifindex) {
            warn!(
                link = name,
                "uplink `{name}` has another name now, and stays the uplink until there is one of that name"
            );
        }
    }

    /// Gives the gates that are left to be taken off.
    pub(super) fn end(&mut self) -> Vec<Gate> {
        self.wanted = None;
        let gate = self.standing.take().and_then(|standing| standing.gate);
        self.former.drain(..).chain(gate).collect()
    }
}

/// Whether a gate's link is here; one that moved away is closed at once.
fn stays(gate: &Gate, away: &mut Vec<Gate>) -> bool {
    match place(gate) {
        Place::Here => true,
        Place::Gone => false,
        Place::Elsewhere => {
            away.push(gate.clone());
            false
        }
    }
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
