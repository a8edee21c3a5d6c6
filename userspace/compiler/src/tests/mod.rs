//! Helpers for the compiler's tests: small models, an image in memory, and the data path's reader.

mod hammer;
mod lifecycle;
mod live;
mod policies;
mod properties;
mod vpcs;
mod worked;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use taskgate_ebpf::abi::image::{self, AddressRow, Class, PolicyRoots};
use taskgate_ebpf::abi::{Address, LinkId};
use taskgate_ebpf::host::HostTables;
use taskgate_ebpf::policy::{Control, EniRow, Peer4, Peer6, PeerKey, PolicyQuery, PolicyResult, Rows, classify};
use taskgate_model::{
    Binding, Dialect, Direction, EcsFields, Eni, GroupIndex, Location, Model, Peer, Ports, PrefixList, Protocol, Rule,
    SecurityGroup,
};

use taskgate_tables::image::host_image;

use super::oracle::OraclePacket;
use super::{CompileError, CompileOptions, Compiled, EniLimits, GroupSetIds, ImageWriter, RuleIds};

/// An ENI that is gated here.
pub(super) fn eni(id: &str, addresses: &[&str], groups: &[usize]) -> Eni {
    Eni {
        id: id.into(),
        task: None,
        account: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        groups: groups.iter().map(|&group| GroupIndex(group)).collect(),
        groups_known: true,
        gate_known: true,
        binding: Some(Binding::Device("tg0".into())),
        source_dest_check: true,
        vpc: None,
        subnet: None,
        az_id: None,
        region: None,
        ecs: EcsFields::default(),
    }
}

/// An ENI that is elsewhere.
fn member(id: &str, addresses: &[&str], groups: &[usize]) -> Eni {
    Eni {
        binding: None,
        ..eni(id, addresses, groups)
    }
}

fn rule(id: &str, protocol: Protocol, peer: Peer) -> Rule {
    Rule {
        id: id.into(),
        protocol,
        peer,
        description: String::new(),
        location: Location::default(),
    }
}

fn group(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> SecurityGroup {
    SecurityGroup {
        id: format!("sg-{name}"),
        name: name.into(),
        vpc: None,
        rules_known: true,
        dialect: Dialect::Native,
        location: Location::default(),
        ingress,
        egress,
    }
}

fn tcp(from: u16, to: u16) -> Protocol {
    Protocol::Tcp(Ports { from, to })
}

fn net(text: &str) -> Peer {
    match text.parse().unwrap() {
        ipnet::IpNet::V4(net) => Peer::V4(net),
        ipnet::IpNet::V6(net) => Peer::V6(net),
    }
}

fn list(id: &str, entries: &[&str]) -> PrefixList {
    PrefixList {
        id: id.into(),
        name: None,
        max_entries: None,
        entries: Some(entries.iter().map(|entry| entry.parse().unwrap()).collect()),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A packet with default fields: TCP from port 40000 to `port`.
fn tcp_packet(peer: &str, port: u16) -> OraclePacket {
    OraclePacket {
        peer: address(peer),
        protocol: 6,
        source_port: 40_000,
        destination_port: port,
        icmp_type: 0,
        icmp_code: 0,
    }
}

/// The limits of an ENI bound to this host.
const NO_LIMITS: EniLimits = EniLimits {
    connections: 1024,
    isolated: false,
};

fn gate_bound(eni: &Eni) -> Option<EniLimits> {
    eni.binding.is_some().then_some(NO_LIMITS)
}

/// A host: an image, and the registers that outlive a generation.
struct Host {
    writer: ImageWriter<Vec<AtomicU64>>,
    rule_ids: RuleIds,
    sets: GroupSetIds,
    /// The number of waits for a grace period.
    graces: usize,
}

impl Host {
    /// A host with `banks` banks of policies.
    fn new(banks: u32) -> Self {
        Self {
            writer: ImageWriter::new(host_image(image::POLICY_BANK + banks)).unwrap(),
            rule_ids: RuleIds::default(),
            sets: GroupSetIds::default(),
            graces: 0,
        }
    }

    fn compile(&mut self, model: &Model, exempt: &[IpAddr]) -> Result<Compiled, CompileError> {
        let scope = CompileOptions {
            gate: &gate_bound,
            exempt,
            dhcp: true,
        };
        Compiled::new(model, scope, &mut self.rule_ids, &mut self.sets)
    }

    /// Compiles and switches.
    fn apply(&mut self, model: &Model) -> Result<u64, CompileError> {
        let compiled = self.compile(model, &[])?;
        self.switch(&compiled)
    }

    fn switch(&mut self, compiled: &Compiled) -> Result<u64, CompileError> {
        let graces = &mut self.graces;
        Ok(self.writer.prepare(compiled, &mut || *graces += 1)?.commit())
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(self.writer.memory())
    }

    /// Every word of the image.
    fn words(&self) -> Vec<u64> {
        self.writer
            .memory()
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect()
    }
}

/// The data path's reader, at one generation.
struct Reader<'a> {
    tables: HostTables<'a>,
}

/// The image's answer for a packet: the rule's number, and whether the flow is untracked.
type Answer = Option<(u32, bool)>;

impl<'a> Reader<'a> {
    fn new(memory: &'a [AtomicU64]) -> Self {
        Self {
            tables: HostTables::new(memory, 0),
        }
    }

    fn rows(&self) -> Rows<<HostTables<'a> as taskgate_ebpf::policy::Image>::Bank> {
        Rows::read(&self.tables, Control::read(&self.tables).unwrap()).unwrap()
    }

    fn address(&self, address: IpAddr) -> AddressRow {
        self.rows().address(&self.tables, address.into())
    }

    fn link(&self, link: LinkId) -> Option<EniRow> {
        let mut eni = EniRow::default();
        self.rows().eni_of(link.get(), &mut eni).map(|()| eni)
    }

    fn slot(&self, slot: u16) -> Option<EniRow> {
        let mut eni = EniRow::default();
        self.rows().eni(slot, &mut eni).map(|()| eni)
    }

    fn classify(&self, slot: u16, direction: Direction, packet: &OraclePacket) -> Answer {
        let (class, port) = match (packet.protocol, packet.peer) {
            (6, _) => (Class::Tcp, packet.destination_port),
            (17, _) => (Class::Udp, packet.destination_port),
            (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => {
                (Class::Icmp, u16::from_be_bytes([packet.icmp_type, packet.icmp_code]))
            }
            (other, _) => (Class::Other, other.into()),
        };
        match packet.peer {
            IpAddr::V4(peer) => self.judge_as(slot, direction, packet, class, port, Peer4(peer.into())),
            peer @ IpAddr::V6(_) => self.judge_as(slot, direction, packet, class, port, Peer6(peer.into())),
        }
    }

    fn judge_as(
        &self,
        slot: u16,
        direction: Direction,
        packet: &OraclePacket,
        class: Class,
        port: u16,
        peer: impl PeerKey,
    ) -> Answer {
        let eni = self.slot(slot).expect("the slot is present");
        let subject = PolicyQuery {
            axis: class as u32,
            port: port.into(),
            peer,
            group_set: self.address(packet.peer).group_set,
        };
        match classify(&self.tables, eni.roots[direction.index()], subject) {
            PolicyResult::Allowed(allowed) => {
                let untracked = match class {
                    Class::Tcp => allowed.flags & image::rule::UNTRACKED_TCP != 0,
                    Class::Udp => allowed.flags & image::rule::UNTRACKED_UDP != 0,
                    Class::Icmp | Class::Other => false,
                };
                Some((allowed.rule, untracked))
            }
            PolicyResult::NoRule => None,
            PolicyResult::NoPolicy => panic!("a gated ENI has four policies"),
        }
    }
}
