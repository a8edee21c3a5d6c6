//! The prefilter compared with the gate: it drops the packets that the gate would drop, and changes nothing else.

use anyhow::Result;
use taskgate_ebpf::{
    abi::{Direction, DropReason, LinkId, Outcome},
    host::Left,
};

use super::{
    super::{
        compare::differs,
        generator::GeneratedPacket,
        naive_parser::{Body, Reading, read},
        oracle::World,
    },
    Stand,
};
use testkit::fixture::{DataPath as _, Host, Kernel, Uplink};

/// A frame's result at the uplink.
pub(super) enum Met {
    /// The prefilter dropped the packet, as the gate would have.
    Dropped,
    GoesOn,
    /// The verdicts differ.
    Difference(String),
}

/// The link for which an uplink judges a packet; `None` if it does not judge it.
fn judged_link(world: &World, reading: &Reading, uplink: Uplink) -> Option<u32> {
    match (uplink, reading) {
        (Uplink::Trunk { tag }, _) => (tag & 0xfff != 0).then(|| LinkId::branch(tag).get()),
        (Uplink::Routed, Reading::Ip(ip)) if !matches!(ip.body, Body::Neighbour { .. } | Body::Bad(_)) => {
            world.link_to(ip.destination)
        }
        (Uplink::Routed, _) => None,
    }
}

impl Stand<'_> {
    /// Judges a packet as the uplink receives it, on its way to a task.
    pub(super) fn past_uplink(
        &mut self,
        thrown: &GeneratedPacket,
        host: &mut Host<'_>,
        kernel: &mut Option<&mut Kernel>,
    ) -> Result<Met> {
        let uplink = if self.rng.one_in(2) {
            Uplink::Routed
        } else {
            // Now and then a tag that carries a priority alone.
            let vlan = if self.rng.one_in(12) {
                0
            } else {
                thrown.link as u16 & 0xfff
            };
            let priority = self.rng.below(8) as u16;
            Uplink::Trunk {
                tag: priority << 13 | vlan,
            }
        };
        self.fixture.set_uplink(uplink);
        let now = host.now()?;
        let reading = read(&thrown.frame, (0, 0), Left::NOTHING);
        let before = self.oracle.clone();
        let is_piece = matches!(&reading, Reading::Ip(ip) if ip.body == Body::Bad(DropReason::FragmentWithoutFirst));
        let expected = judged_link(&self.world, &reading, uplink)
            .filter(|_| !is_piece)
            .map(|link| {
                let to = match uplink {
                    Uplink::Trunk { .. } => thrown.frame.first_chunk().copied(),
                    Uplink::Routed => None,
                };
                let how = (to, true, false);
                self.oracle
                    .judge(&self.world, &reading, link, Direction::Ingress, how, now)
            })
            .and_then(|outcome| match outcome {
                // The prefilter does not check for room: the gate does.
                Outcome::Pass(_) | Outcome::Drop(DropReason::ConnectionsFull | DropReason::TaskConnectionsFull) => None,
                Outcome::Drop(reason) => Some(reason),
            });
        if expected.is_none() {
            self.oracle = before;
        } else {
            // Only the gate hears neighbours.
            self.oracle.link_locals = before.link_locals;
        }
        let found = host.prefiltered(&thrown.frame, uplink);
        if found != expected {
            return Ok(Met::Difference(format!(
                "at {uplink:?}: {found:?}, oracle: {expected:?}"
            )));
        }
        if let Some(kernel) = kernel
            && kernel.prefilter(&thrown.frame, uplink)? != expected.is_none()
        {
            return Ok(Met::Difference(format!(
                "at {uplink:?} the kernel does not: {expected:?}"
            )));
        }
        let state = host.state(self.fixture.highest)?;
        if let Some(what) = differs(&self.oracle, &self.fixture.rule_ids, &state) {
            return Ok(Met::Difference(format!("after {uplink:?}: {what}")));
        }
        self.fixture.set_uplink(Uplink::Routed);
        self.fixture.writer.control().set_trunk(self.world.trunk);
        Ok(expected.map_or(Met::GoesOn, |_| Met::Dropped))
    }
}
