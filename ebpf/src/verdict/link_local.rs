//! Ownership of link-local addresses. No configuration assigns them, so the first host that is seen with an address on a
//! link owns it, as in RFC 6620: a task that uses it, or a neighbour heard from the other side of a gate.
//!
//! A task owns an address as long as its link and epoch last; a neighbour owns one for [`Timeout::LinkLocal`] after it was
//! last heard, unless it turns out to be the task itself, heard by the link that is gated now. Either loses the address to a
//! task that probed for it by duplicate address detection (RFC 4862, 5.4) and got no answer for [`ANSWERS`] of that time: a
//! claimed address that is not used has no owner. An address derived from a task's known hardware address is always the
//! task's.

use super::{Hook, PacketContext};
use crate::{
    abi::{
        Address,
        image::{Timeout, slot},
        tables::{LinkLocal, LinkLocalKey},
    },
    conntrack::idle,
    packet::Neighbour,
    tables::{Inserted, Tables},
};

/// Limits of new addresses per [`Timeout::LinkLocal`], for a task and for its neighbours: neither can fill the table.
const FROM_TASK: u32 = 64;
const TO_TASK: u32 = 1024;
/// How long an answer may take, as a divisor of [`Timeout::LinkLocal`]: 0.6 s of 300 s. Hosts wait for one second
/// (RFC 4861, 10) and answer at once.
const ANSWERS: u32 = 512;

/// The role of a link-local address in a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// The task uses the address.
    Used,
    /// The task probes for the address (duplicate address detection) and does not use it yet.
    Probed,
    /// A neighbour uses the address, or is about to.
    Heard,
    /// The address is the destination of a packet to the task. The task's, unless another owner is known; on a segment that
    /// several links share this is a presumption ([`Work::presumed`](super::Work)).
    Meant,
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Whether a link-local address is the task's own, or becomes its own by this packet.
    ///
    /// A task without source check may use a neighbour's address, but not another task's of this host.
    #[inline(always)]
    pub(super) fn owns(&mut self, address: Address, says: Says) -> bool {
        let slot = self.work.eni.slot;
        let [network, interface] = address.halves();
        let mac = self.control.mac_of(slot);
        let is_of_mac = mac != 0 && interface == modified_eui64(mac);
        if network != Address::LINK_LOCAL_NETWORK || is_of_mac {
            return network == Address::LINK_LOCAL_NETWORK;
        }
        let (link, now) = (self.packet.link, self.now);
        let epoch = self.control.epoch(slot);
        let checked = self.work.eni.flags & slot::SOURCE_DEST_CHECK != 0;
        let bridge = self.control.segment_of(slot);
        let learns = !D::IS_PREFILTER && says != Says::Meant;
        let by = if says == Says::Heard { self.packet.came_by } else { link };
        self.work.link_local.0 = LinkLocalKey {
            interface,
            segment: bridge.unwrap_or(link),
            spare: 0,
        };
        let is_meant = says == Says::Meant;
        self.work.presumed = is_meant && bridge.is_some();
        let Some(known) = self.tables.link_local(&self.work.link_local.0) else {
            return is_meant || learns && self.is_new(says, by, epoch);
        };
        let (owner, since) = known.owner();
        let (heard_by, last) = known.heard();
        if owner == slot && since == epoch {
            if says == Says::Used && heard_by != 0 {
                known.defend();
            }
            self.work.presumed = false;
            return true;
        }
        let kept = owner != 0 && self.control.epoch(owner) == since && self.control.link_of(owner).is_some();
        let span = self.control.timeout(Timeout::LinkLocal);
        let is_fresh = !idle(now, last, span);
        let was_asked = is_fresh && heard_by & LinkLocal::ASKED != 0;
        let is_others = owner == 0 && is_fresh && !was_asked && heard_by != link;
        if !learns {
            return is_meant && !kept && !is_others;
        }
        let asked = was_asked && heard_by == link | LinkLocal::ASKED;
        match says {
            // A probe takes nothing away. The owner of the address answers, and is heard.
            Says::Probed => {
                known.note(link | LinkLocal::ASKED, now);
                true
            }
            Says::Used if asked || kept || is_others => {
                let is_given = asked && idle(now, last, span / ANSWERS);
                if is_given {
                    known.give(slot, epoch);
                }
                is_given || is_others && !checked
            }
            Says::Used => {
                known.give(slot, epoch);
                true
            }
            // Ignore a current owner's address, and the task's own probe that arrives at its neighbours' gates.
            _ if kept || was_asked && heard_by == by | LinkLocal::ASKED => false,
            // The first neighbour heard owns the address.
            _ => {
                known.set_heard(if is_others { heard_by } else { by }, now);
                false
            }
        }
    }

    /// Records an address without a known owner; returns whether the address is the task's.
    #[inline(always)]
    fn is_new(&mut self, says: Says, by: u32, epoch: u32) -> bool {
        let slot = self.work.eni.slot;
        let is_heard = says == Says::Heard;
        let most = if is_heard { TO_TASK } else { FROM_TASK };
        let span = self.control.timeout(Timeout::LinkLocal);
        let Some(cache) = self.tables.neighbours(slot) else {
            return false;
        };
        if !cache.may_name_one_more(is_heard, most, self.now, span) {
            return false;
        }
        self.work.link_local.1 = if says == Says::Used {
            LinkLocal::of_task(slot, epoch)
        } else {
            LinkLocal::of_neighbour(by, self.now)
        };
        let (key, value) = &self.work.link_local;
        let inserted = self.tables.insert_link_local(key, value);
        // If another CPU inserted first, the next packet sees that owner.
        !is_heard && inserted != Inserted::Exists(())
    }

    /// Whether a task may use the link-local address that its message names.
    #[inline(always)]
    pub(super) fn may_name(&mut self, is_unnamed: bool, checked: bool) -> bool {
        let packet = self.packet;
        let is_answer = matches!(packet.neighbour, Neighbour::Advertisement);
        let about_target = is_unnamed || is_answer && (!checked || !packet.source.is_link_local());
        let named = if self.tables.opaque(about_target as u32) != 0 {
            packet.target
        } else {
            packet.source
        };
        if !named.is_link_local() {
            return true;
        }
        let says = if is_unnamed { Says::Probed } else { Says::Used };
        self.owns(named, says)
    }

    /// Records the owner of a link-local address that a message to the task names; returns whether the owner is the task
    /// itself.
    #[inline(always)]
    pub(super) fn hears_own(&mut self) -> bool {
        let packet = self.packet;
        let tells = match packet.neighbour {
            Neighbour::Advertisement => packet.target.is_link_local(),
            // Duplicate address detection.
            Neighbour::Solicitation => packet.source.is(Address::default()),
            _ => false,
        };
        let named = if self.tables.opaque(tells as u32) != 0 {
            packet.target
        } else {
            packet.source
        };
        named.is_link_local() && self.owns(named, Says::Heard)
    }
}

/// The interface identifier that follows from a hardware address (RFC 4291, appendix A).
#[inline(always)]
const fn modified_eui64(mac: u64) -> u64 {
    (mac >> 24 ^ 0x02_0000) << 40 | 0xff_fe00_0000 | mac & 0xff_ffff
}
