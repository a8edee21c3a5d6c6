//! The uplink: the trunk's gate, the early verdict, and what becomes of both when the configuration or the link changes.
//!
//! The gate of a trunk that the configuration no longer names stays, so that what were branches is not open. The image
//! names it as the former one, so that the host's own frames, which have no tag, go on.

use log::{info, warn};
use nix::net::if_::if_indextoname;

use super::{RunError, error::chain, records::Writer};
use crate::{
    dataplane::{
        early::{Early, EarlyMode},
        gate::{Gate, GateError},
        link::{Link, LinkError, LinkEvent},
        netlink::Netlink,
        object::Object,
        tags::Tags,
    },
    model::{Uplink, UplinkMode},
};

/// What faces the wire.
#[derive(Default)]
pub(super) struct Uplinks {
    /// What the configuration says.
    wanted: Option<Uplink>,
    standing: Option<Standing>,
    /// Gates of former trunks, closed until their links go. The image names the last one.
    former: Vec<Gate>,
}

/// An uplink whose link is there.
struct Standing {
    link: Link,
    /// On a trunk.
    gate: Option<Gate>,
    /// Before the switch that it needs off.
    early: Option<Early>,
    _tags: Option<Tags>,
}

impl Standing {
    /// Whether its link went.
    fn is_gone(&self) -> bool {
        if let Some(gate) = &self.gate {
            return is_gone(gate);
        }
        if let Some(early) = &self.early {
            return early.is_gone().unwrap_or(true);
        }
        !if_indextoname(self.link.ifindex).is_ok_and(|name| !name.is_empty())
    }
}

impl Uplinks {
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

    /// Whether a link has, or had, a trunk's gate.
    pub(super) fn holds(&self, ifindex: u32) -> bool {
        let current = self.standing.as_ref().and_then(|standing| standing.gate.as_ref());
        current
            .into_iter()
            .chain(&self.former)
            .any(|gate| gate.link().ifindex == ifindex)
    }

    /// Takes over what a configuration that was just switched to says.
    pub(super) async fn follow(
        &mut self,
        uplink: Option<&Uplink>,
        object: &mut Object,
        netlink: &Netlink,
        writer: &mut Writer,
    ) -> Result<(), RunError> {
        if self.wanted.as_ref() != uplink {
            self.dismiss(writer);
            self.wanted = uplink.cloned();
        }
        self.establish(object, netlink, writer).await
    }

    /// Brings up what is wanted and does not stand, if its link is there.
    async fn establish(&mut self, object: &mut Object, netlink: &Netlink, writer: &mut Writer) -> Result<(), RunError> {
        let Some(wanted) = self.wanted.clone().filter(|_| self.standing.is_none()) else {
            return Ok(());
        };
        let Uplink { device, mode } = wanted;
        let link = match netlink.uplink(&device).await {
            Ok(link) => link,
            Err(LinkError::Missing { name }) => {
                info!("the uplink is gated as soon as link `{name}` is there");
                return Ok(());
            }
            Err(cause) => return Err(RunError::Uplink { device, cause }),
        };
        let gate = match mode {
            UplinkMode::Routed => None,
            UplinkMode::Trunk => Some(self.attach(object, &link, writer)?),
        };
        let (early, tags) = early(object, &link, mode);
        self.standing = Some(Standing {
            link,
            gate,
            early,
            _tags: tags,
        });
        Ok(())
    }

    /// The trunk's gate. The image names the trunk first, so that the host's own frames pass from the gate's first moment.
    fn attach(&mut self, object: &mut Object, link: &Link, writer: &mut Writer) -> Result<Gate, RunError> {
        let attached = link.id().and_then(|id| {
            writer.set_trunk(id.get());
            object.attach(link)
        });
        let gate = attached.map_err(|cause| {
            writer.set_trunk(0);
            RunError::Trunk {
                device: link.name.clone(),
                cause,
            }
        })?;
        self.former.retain(|gate| gate.link().ifindex != link.ifindex);
        self.name_former(writer);
        info!("trunk `{}` is gated", link.name);
        Ok(gate)
    }

    /// Lets go of an uplink that the configuration no longer names; a trunk's gate stays.
    fn dismiss(&mut self, writer: &mut Writer) {
        let Some(Standing { link, gate, .. }) = self.standing.take() else {
            return;
        };
        match gate {
            None => info!("link `{}` is no longer the uplink", link.name),
            Some(gate) => {
                warn!(
                    "link `{}` is no longer the trunk: it passes no tagged frame until it goes, or taskgate is started anew",
                    link.name
                );
                self.former.push(gate);
            }
        }
        self.name_former(writer);
        writer.set_trunk(0);
    }

    /// Has the image name the link that was the trunk last. One that was it before passes nothing.
    fn name_former(&self, writer: &mut Writer) {
        let Some((last, before)) = self.former.split_last() else {
            writer.set_former_trunk(0);
            return;
        };
        writer.set_former_trunk(last.link().ifindex);
        for gate in before {
            warn!(
                "link `{}` was a trunk before `{}` was: it passes nothing until it goes, or taskgate is started anew",
                gate.link().name,
                last.link().name
            );
        }
    }

    /// Follows a link that came or went. Where messages were lost, another one may have its name and number.
    pub(super) async fn event(
        &mut self,
        event: &LinkEvent,
        object: &mut Object,
        netlink: &Netlink,
        writer: &mut Writer,
    ) -> Result<(), RunError> {
        let (LinkEvent::Present { name, ifindex } | LinkEvent::Gone { name, ifindex }) = event;
        let before = self.former.len();
        self.former
            .retain(|gate| gate.link().ifindex != *ifindex || !is_gone(gate));
        let gone = self
            .standing
            .take_if(|standing| standing.link.ifindex == *ifindex && standing.is_gone());
        if gone.is_some() {
            // Another link may get its number.
            writer.set_trunk(0);
            info!("uplink `{name}` is gone");
        }
        if self.former.len() != before {
            self.name_former(writer);
        }
        let wanted = self.wanted.as_ref().is_some_and(|uplink| uplink.device == *name);
        if !wanted {
            return Ok(());
        }
        let stands = self.standing.as_ref().map(|standing| standing.link.ifindex);
        match event {
            LinkEvent::Gone { .. } if stands == Some(*ifindex) => {
                warn!("uplink `{name}` has another name now, and stays the uplink until there is one of that name");
            }
            LinkEvent::Present { .. } if stands.is_some_and(|stands| stands != *ifindex) => {
                self.dismiss(writer);
                self.establish(object, netlink, writer).await?;
            }
            LinkEvent::Present { .. } => self.establish(object, netlink, writer).await?,
            LinkEvent::Gone { .. } => {}
        }
        Ok(())
    }

    /// Takes the early verdict off, and gives the gates that are left to be taken off.
    pub(super) fn end(&mut self) -> Vec<Gate> {
        self.wanted = None;
        let gate = self.standing.take().and_then(|standing| standing.gate);
        self.former.drain(..).chain(gate).collect()
    }
}

/// The early verdict, where it can be had. Without it nothing is open: the gates behind it judge the same.
fn early(object: &mut Object, link: &Link, mode: UplinkMode) -> (Option<Early>, Option<Tags>) {
    let name = &link.name;
    let late = |why: &str| warn!("uplink `{name}`: nothing is dropped early, the gates behind it judge alone: {why}");
    let tags = match mode {
        UplinkMode::Routed => None,
        UplinkMode::Trunk => Some(Tags::in_frames(link)),
    };
    match &tags {
        Some(Tags::Beside(error)) => {
            late(&format!(
                "its VLAN tags are not in its frames, and that cannot be changed: {error}"
            ));
            return (None, None);
        }
        Some(Tags::Unknown) => info!(
            "uplink `{name}`: its other end is in another network namespace; what that sends with tags beside its \
             frames (ethtool's `txvlan`) is not dropped early"
        ),
        Some(Tags::Turned(_)) => info!("uplink `{name}`: VLAN offload is off while taskgate runs"),
        Some(Tags::InFrames) | None => {}
    }
    match object.attach_early(link) {
        Ok(early) => {
            match early.mode() {
                EarlyMode::Native => info!("uplink `{name}`: what is denied is dropped early, by its driver (XDP)"),
                EarlyMode::Generic(error) => info!(
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

/// Whether a gate went with its link; where nobody can tell it is taken to stand.
pub(super) fn is_gone(gate: &Gate) -> bool {
    gate.is_gone().unwrap_or_else(|error: GateError| {
        warn!("{}", chain(&error));
        false
    })
}
