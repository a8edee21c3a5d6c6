//! Addresses in several VPCs.

use super::*;
use crate::oracle;

/// One address in three VPCs: its groups depend on the gate.
#[test]
fn an_address_in_several_vpcs_has_the_groups_that_the_gate_means() {
    let to = |name: &str, at| rule(name, tcp(at as u16, at as u16), Peer::Group(GroupIndex(at)));
    let in_vpc = |vpc: &str, group: SecurityGroup| SecurityGroup {
        vpc: Some(vpc.into()),
        ..group
    };
    let of = |vpc: Option<&str>, eni: Eni| Eni {
        vpc: vpc.map(str::to_owned),
        ..eni
    };
    // Every gate's rules refer to the groups a, b, c on ports 0, 1, 2; those of `d` refer to a group of VPC a only.
    let all = vec![to("r", 0), to("r", 1), to("r", 2)];
    let groups = vec![
        in_vpc("vpc-a", group("a", all.clone(), vec![])),
        in_vpc("vpc-b", group("b", vec![to("r", 1)], vec![])),
        in_vpc("vpc-c", group("c", vec![], vec![])),
        in_vpc("vpc-d", group("d", vec![to("r", 0)], vec![])),
        group("free", all, vec![]),
    ];
    let enis = vec![
        of(Some("vpc-a"), eni("gate-a", &["10.0.9.1"], &[0])),
        of(Some("vpc-b"), eni("gate-b", &["10.0.9.2"], &[1])),
        of(Some("vpc-d"), eni("gate-d", &["10.0.9.3"], &[3, 4])),
        of(None, eni("gate-free", &["10.0.9.4"], &[4])),
        // In VPCs a, b and c, each time with that VPC's group.
        of(Some("vpc-a"), member("a-1", &["10.0.0.1"], &[0])),
        of(Some("vpc-b"), member("b-1", &["10.0.0.1", "10.0.0.2"], &[1])),
        of(Some("vpc-c"), member("c-1", &["10.0.0.1", "10.0.0.2"], &[2])),
        // Elsewhere the same groups, and one more.
        of(Some("vpc-b"), member("b-2", &["10.0.0.3"], &[0, 1])),
        of(Some("vpc-c"), member("c-2", &["10.0.0.3"], &[2, 0])),
        // The address of a gate on this host belongs to that gate, in any VPC.
        of(Some("vpc-b"), member("b-3", &["10.0.9.1"], &[1])),
        of(Some("vpc-c"), member("c-3", &["10.0.0.4"], &[2])),
    ];
    let model = Model {
        groups,
        enis,
        ..Model::default()
    };
    let mut host = Host::new(1);
    host.apply(&model).unwrap();
    let reader = host.reader();
    let ports = |gate: &str, peer: &str| -> Vec<u16> {
        let slot = host.writer.slot(gate).unwrap();
        let eni = model.enis.iter().find(|eni| eni.id == gate).unwrap();
        let allowed = |port: &u16| {
            let packet = tcp_packet(peer, *port);
            let found = reader.classify(slot, Direction::Ingress, &packet).is_some();
            assert_eq!(
                found,
                oracle::classify(&model, eni, Direction::Ingress, &packet).is_some(),
                "{gate} {peer} {port}"
            );
            found
        };
        (0..3).filter(allowed).collect()
    };
    for (gate, peer, expected) in [
        // The member in its own VPC only.
        ("gate-a", "10.0.0.1", &[0][..]),
        ("gate-b", "10.0.0.1", &[1]),
        // VPCs b and c are peered with a: an address in both may belong to either.
        ("gate-a", "10.0.0.2", &[]),
        ("gate-a", "10.0.0.3", &[0]),
        ("gate-b", "10.0.0.2", &[1]),
        // For a gate without a VPC no ENI is nearer; for d only a's ENI counts.
        ("gate-free", "10.0.0.1", &[]),
        ("gate-free", "10.0.0.3", &[0]),
        ("gate-d", "10.0.0.1", &[0]),
        ("gate-d", "10.0.0.2", &[]),
        // On this host the address belongs to gate-a.
        ("gate-a", "10.0.9.1", &[0]),
        ("gate-b", "10.0.9.1", &[]),
        // An address in a single VPC has the same groups for every gate.
        ("gate-a", "10.0.0.4", &[2]),
        ("gate-free", "10.0.0.4", &[2]),
    ] {
        assert_eq!(ports(gate, peer), expected, "{gate} from {peer}");
    }
}

/// Within one VPC, or if a VPC is unknown, an address has one owner.
#[test]
fn one_address_with_different_groups_in_one_vpc_is_refused() {
    let groups = vec![group("a", vec![], vec![]), group("b", vec![], vec![])];
    for (one, other, refused) in [
        (Some("vpc-a"), Some("vpc-a"), true),
        (Some("vpc-a"), None, true),
        (None, None, true),
        (Some("vpc-a"), Some("vpc-b"), false),
    ] {
        let of = |vpc: Option<&str>, id: &str, set: usize| Eni {
            vpc: vpc.map(str::to_owned),
            ..member(id, &["10.0.0.1"], &[set])
        };
        let model = Model {
            groups: groups.clone(),
            enis: vec![of(one, "eni-1", 0), of(other, "eni-2", 1)],
            ..Model::default()
        };
        let found = Host::new(1).apply(&model);
        assert_eq!(
            matches!(found, Err(CompileError::AddressConflict { .. })),
            refused,
            "{one:?} {other:?} {found:?}"
        );
    }
}
