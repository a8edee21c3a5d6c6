//! Packets without a connection: addresses, errors about connections, and the rules.

use std::net::IpAddr;

use taskgate_compiler::oracle;
use taskgate_ebpf::abi::{Direction, DropReason, PassReason, image::control};

use super::{
    super::naive_parser::{Body, Ip},
    Oracle,
    entries::Entry,
    is_of_many,
    names::{Case, exchange},
    neighbours::is_on_link,
};

/// The reason for an admission, and its entry's properties.
#[expect(clippy::struct_excessive_bools, reason = "facts about an admission, each by itself")]
pub(super) struct Admission {
    pub(super) pass: PassReason,
    pub(super) rule: Option<(String, String)>,
    pub(super) untracked: bool,
    pub(super) dhcp: bool,
    pub(super) local: bool,
    pub(super) to_group: bool,
}

impl Oracle {
    /// Judges a packet by the rules of a direction.
    pub(super) fn admit(
        &mut self,
        case: &Case<'_>,
        ip: &Ip,
        judged: Direction,
        answers_dhcp: bool,
    ) -> Result<Admission, DropReason> {
        let world = case.world;
        let (eni, gate, slot) = world.eni_on(case.link).ok_or(DropReason::UnknownTask)?;
        if gate.isolated {
            return Err(DropReason::Isolated);
        }
        let (local, remote) = case.ends(ip);
        // A link-local address of the task is valid only toward hosts on the link.
        let own_on_link = match (local, case.direction) {
            (IpAddr::V6(address), _) if !address.is_unicast_link_local() => false,
            (IpAddr::V6(address), Direction::Egress) => self.link_locals.is_said(case, slot, address, false),
            (IpAddr::V6(address), Direction::Ingress) => self.link_locals.is_meant(case, slot, address),
            (IpAddr::V4(_), _) => false,
        };
        let stays = own_on_link && (case.direction == Direction::Ingress || is_on_link(remote));
        let own = stays || eni.addresses.contains(&local);
        let exempt = |dhcp| {
            Ok(Admission {
                pass: PassReason::Exempt,
                rule: None,
                untracked: false,
                dhcp,
                local: !dhcp && world.is_local(remote),
                to_group: false,
            })
        };
        // DHCP before the task has an address goes to all, or to the offered address.
        let to_whoever_asked = match local {
            IpAddr::V4(address) => address.is_broadcast(),
            IpAddr::V6(_) => false,
        };
        if answers_dhcp && (own || to_whoever_asked) {
            return exempt(true);
        }
        if case.direction == Direction::Egress && world.model.exempt().dhcp && case.is_dhcp(ip) {
            let unknown = match local {
                IpAddr::V4(address) => address.is_unspecified(),
                IpAddr::V6(_) => own_on_link,
            };
            if own || unknown {
                return exempt(true);
            }
        }
        if case.direction == Direction::Egress && eni.source_dest_check && !own {
            return Err(DropReason::SpoofedSource);
        }
        let to_group = case.direction == Direction::Ingress && !own && is_of_many(ip.destination);
        if case.direction == Direction::Ingress && !own && !to_group {
            let mac = case.world.macs.get(&slot);
            let another = mac.is_some_and(|mac| case.to.is_some_and(|to| to != *mac));
            if eni.source_dest_check || another {
                return Err(DropReason::NotForTask);
            }
        }
        if case.direction == Direction::Ingress && eni.addresses.contains(&remote) {
            return Err(DropReason::SpoofedSource);
        }
        if case.from_wire && world.speaks_here(remote) {
            return Err(DropReason::SpoofedSource);
        }
        if let Some(about) = self.related(case, ip) {
            return Ok(Admission {
                pass: PassReason::IcmpError,
                rule: about.rule.clone(),
                untracked: false,
                dhcp: false,
                local: world.is_local(remote),
                to_group,
            });
        }
        if judged == Direction::Egress && world.is_exempt(remote) {
            return exempt(false);
        }
        let packet = Case::asked(ip, remote, judged != case.direction);
        let allowed = oracle::classify(&world.model, eni, judged, &packet);
        let is_presumed = case.direction == Direction::Ingress
            && matches!(local, IpAddr::V6(address) if address.is_unicast_link_local()
                && self.link_locals.is_presumed(case, slot, address));
        let allowed = allowed.ok_or(if to_group || is_presumed {
            DropReason::NotForTask
        } else {
            DropReason::NoRule
        })?;
        Ok(Admission {
            pass: PassReason::Rule,
            rule: Some((world.model.group(allowed.group).id.clone(), allowed.rule.id.clone())),
            untracked: allowed.untracked,
            dhcp: false,
            local: world.is_local(remote),
            to_group,
        })
    }

    /// The live connection of the packet that an error quotes, if the settings let such errors through.
    fn related(&self, case: &Case<'_>, ip: &Ip) -> Option<&Entry> {
        let world = case.world;
        let Body::Icmp {
            kind,
            code,
            quoted: Some(quoted),
            ..
        } = &ip.body
        else {
            return None;
        };
        let pmtu = if ip.source.is_ipv6() {
            *kind == 2
        } else {
            (*kind, *code) == (3, 4)
        };
        let wants = if pmtu { control::ICMP_PMTU } else { control::ICMP_ALL };
        if world.flags & wants == 0 {
            return None;
        }
        // The error goes to the sender of the quoted packet. Any host may send errors to the task; the source check
        // covers the task's own errors.
        if ip.destination != quoted.source {
            return None;
        }
        if let Body::Icmp { kind, .. } = quoted.body {
            exchange(ip.source.is_ipv6(), kind)?;
        }
        let back = Case {
            direction: case.direction.opposite(),
            ..*case
        };
        let entry = self.conns.get(back.names(quoted).first()?)?;
        let idle = case.now.wrapping_sub(entry.last) > entry.timeout(quoted.protocol, world);
        let cut = entry.untracked || world.flags & control::CUT != 0;
        let changed = entry.generation != world.generation && cut;
        let of_many = entry.to_group && case.direction == Direction::Egress;
        let live = entry.epoch == world.epoch(entry.slot) && !idle && !changed && !of_many;
        live.then_some(entry)
    }
}
