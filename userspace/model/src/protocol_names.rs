//! The names of IP protocols: IANA's keywords in lower case, and their numbers.
//!
//! Source: the IANA registry "Assigned Internet Protocol Numbers". Keywords with a space or a remark are shortened as
//! `/etc/protocols` does, and a few protocols have a second name that is better known than the keyword.

/// The names of each number. The first one is used for output, the others are only accepted as input.
const NAMES: &[(u8, &[&str])] = &[
    (0, &["hopopt"]),
    (1, &["icmp"]),
    (2, &["igmp"]),
    (3, &["ggp"]),
    (4, &["ipencap", "ipv4"]),
    (5, &["st"]),
    (6, &["tcp"]),
    (7, &["cbt"]),
    (8, &["egp"]),
    (9, &["igp"]),
    (10, &["bbn-rcc-mon"]),
    (11, &["nvp-ii"]),
    (12, &["pup"]),
    (13, &["argus"]),
    (14, &["emcon"]),
    (15, &["xnet"]),
    (16, &["chaos"]),
    (17, &["udp"]),
    (18, &["mux"]),
    (19, &["dcn-meas"]),
    (20, &["hmp"]),
    (21, &["prm"]),
    (22, &["xns-idp"]),
    (23, &["trunk-1"]),
    (24, &["trunk-2"]),
    (25, &["leaf-1"]),
    (26, &["leaf-2"]),
    (27, &["rdp"]),
    (28, &["irtp"]),
    (29, &["iso-tp4"]),
    (30, &["netblt"]),
    (31, &["mfe-nsp"]),
    (32, &["merit-inp"]),
    (33, &["dccp"]),
    (34, &["3pc"]),
    (35, &["idpr"]),
    (36, &["xtp"]),
    (37, &["ddp"]),
    (38, &["idpr-cmtp"]),
    (39, &["tp++"]),
    (40, &["il"]),
    (41, &["ipv6"]),
    (42, &["sdrp"]),
    (43, &["ipv6-route"]),
    (44, &["ipv6-frag"]),
    (45, &["idrp"]),
    (46, &["rsvp"]),
    (47, &["gre"]),
    (48, &["dsr"]),
    (49, &["bna"]),
    (50, &["esp"]),
    (51, &["ah"]),
    (52, &["i-nlsp"]),
    (53, &["swipe"]),
    (54, &["narp"]),
    (55, &["min-ipv4", "mobile"]),
    (56, &["tlsp"]),
    (57, &["skip"]),
    (58, &["icmpv6", "ipv6-icmp"]),
    (59, &["ipv6-nonxt"]),
    (60, &["ipv6-opts"]),
    (62, &["cftp"]),
    (64, &["sat-expak"]),
    (65, &["kryptolan"]),
    (66, &["rvd"]),
    (67, &["ippc"]),
    (69, &["sat-mon"]),
    (70, &["visa"]),
    (71, &["ipcv"]),
    (72, &["cpnx"]),
    (73, &["cphb"]),
    (74, &["wsn"]),
    (75, &["pvp"]),
    (76, &["br-sat-mon"]),
    (77, &["sun-nd"]),
    (78, &["wb-mon"]),
    (79, &["wb-expak"]),
    (80, &["iso-ip"]),
    (81, &["vmtp"]),
    (82, &["secure-vmtp"]),
    (83, &["vines"]),
    (84, &["iptm"]),
    (85, &["nsfnet-igp"]),
    (86, &["dgp"]),
    (87, &["tcf"]),
    (88, &["eigrp"]),
    (89, &["ospf", "ospfigp"]),
    (90, &["sprite-rpc"]),
    (91, &["larp"]),
    (92, &["mtp"]),
    (93, &["ax.25"]),
    (94, &["ipip"]),
    (95, &["micp"]),
    (96, &["scc-sp"]),
    (97, &["etherip"]),
    (98, &["encap"]),
    (100, &["gmtp"]),
    (101, &["ifmp"]),
    (102, &["pnni"]),
    (103, &["pim"]),
    (104, &["aris"]),
    (105, &["scps"]),
    (106, &["qnx"]),
    (107, &["a/n"]),
    (108, &["ipcomp"]),
    (109, &["snp"]),
    (110, &["compaq-peer"]),
    (111, &["ipx-in-ip"]),
    (112, &["vrrp"]),
    (113, &["pgm"]),
    (115, &["l2tp"]),
    (116, &["ddx"]),
    (117, &["iatp"]),
    (118, &["stp"]),
    (119, &["srp"]),
    (120, &["uti"]),
    (121, &["smp"]),
    (122, &["sm"]),
    (123, &["ptp"]),
    (124, &["isis"]),
    (125, &["fire"]),
    (126, &["crtp"]),
    (127, &["crudp"]),
    (128, &["sscopmce"]),
    (129, &["iplt"]),
    (130, &["sps"]),
    (131, &["pipe"]),
    (132, &["sctp"]),
    (133, &["fc"]),
    (134, &["rsvp-e2e-ignore"]),
    (135, &["mobility-header"]),
    (136, &["udplite"]),
    (137, &["mpls-in-ip"]),
    (138, &["manet"]),
    (139, &["hip"]),
    (140, &["shim6"]),
    (141, &["wesp"]),
    (142, &["rohc"]),
    (143, &["ethernet"]),
    (144, &["aggfrag"]),
    (145, &["nsh"]),
    (146, &["homa"]),
    (147, &["bit-emu"]),
];

/// The remark on names of IPv6 extension headers.
const BEFORE_PROTOCOL: &str =
    "in IPv6 it is a header that a packet of any protocol can have, and rules see the protocol behind it";

/// Names that are often used differently from IANA: the usual meaning, and how to write it.
const MISLEADING: [(&str, &str); 11] = [
    (
        "ipip",
        "tunnels of IPv4 in IPv4 (`ip tunnel … mode ipip`) are `ipencap`, protocol 4",
    ),
    (
        "ipv4",
        "it is IPv4 inside IP, not all IPv4 traffic, which is `all` with an IPv4 CIDR",
    ),
    (
        "ipv6",
        "it is IPv6 inside IP, not all IPv6 traffic, which is `all` with an IPv6 CIDR",
    ),
    ("hopopt", BEFORE_PROTOCOL),
    ("ipv6-route", BEFORE_PROTOCOL),
    ("ipv6-frag", BEFORE_PROTOCOL),
    ("ipv6-opts", BEFORE_PROTOCOL),
    ("rdp", "Remote Desktop is tcp and udp port 3389"),
    ("l2tp", "L2TP version 2 is udp port 1701"),
    ("stp", "the Spanning Tree Protocol is not carried in IP"),
    ("ptp", "the Precision Time Protocol is udp ports 319 and 320"),
];

/// The name of a protocol: IANA's keyword in lower case, or the better known one. `None` where IANA names none.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    let found = NAMES.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    NAMES[found].1.first().copied()
}

/// The number of the protocol with this name, ignoring case. Digits are not a name.
pub fn protocol_number(name: &str) -> Option<u8> {
    let found = NAMES.iter().find(|(_, names)| {
        let mut names = names.iter();
        names.any(|known| known.eq_ignore_ascii_case(name))
    });
    found.map(|(number, _)| *number)
}

/// Why a protocol's name may be misunderstood. `None` for most names.
pub fn misleading_protocol(name: &str) -> Option<&'static str> {
    let found = MISLEADING.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, meant)| *meant)
}

/// A protocol in messages: name and number, `esp (50)`, or `protocol 200`.
pub fn protocol_text(number: u8) -> String {
    protocol_name(number).map_or_else(|| format!("protocol {number}"), |name| format!("{name} ({number})"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::IpNumber;

    use super::*;

    /// etherparse generates its keywords from IANA's file.
    #[test]
    fn names_are_those_of_iana() {
        // Newer than etherparse's copy of the registry, or spelled differently there.
        let newer = [145, 146, 147];
        let other = [4, 55, 58, 89, 124, 135, 255];
        for number in 0..=255 {
            let iana = IpNumber(number).keyword_str().map(|keyword| {
                let keyword = keyword.trim_end_matches(" (deprecated)");
                keyword.to_ascii_lowercase()
            });
            if !newer.contains(&number) && !other.contains(&number) {
                assert_eq!(protocol_name(number), iana.as_deref(), "{number}");
            }
        }
        for (name, number) in [
            ("IPv4", 4),
            ("ipencap", 4),
            ("IPv6-ICMP", 58),
            ("icmpv6", 58),
            ("OSPFIGP", 89),
            ("ospf", 89),
            ("isis", 124),
            ("mobility-header", 135),
        ] {
            assert_eq!(protocol_number(name), Some(number), "{name}");
        }
    }

    /// If the system has a list, its names have the same numbers here. `ip` is a pseudo protocol there; `rspf` is `cphb`.
    #[test]
    fn names_are_those_of_the_system() {
        let list = std::fs::read_to_string("/etc/protocols").unwrap_or_default();
        for line in list.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(name), Some(number)) = (words.next(), words.next()) else {
                continue;
            };
            if let Ok(number) = number.parse()
                && !matches!(name, "ip" | "rspf")
            {
                assert_eq!(protocol_number(name), Some(number), "{name}");
            }
        }
    }

    #[test]
    fn a_name_means_one_number_and_no_number_is_a_name() {
        let mut seen = HashSet::new();
        let mut last = None;
        for (number, names) in NAMES {
            assert!(last < Some(*number) && !names.is_empty(), "{number}");
            last = Some(*number);
            for name in *names {
                assert!(seen.insert(*name), "{name}");
                assert!(name.parse::<i32>().is_err() && *name == name.to_ascii_lowercase());
                assert!(!matches!(*name, "all" | "any" | "ip"), "{name}");
                assert_eq!(protocol_number(&name.to_ascii_uppercase()), Some(*number));
            }
        }
        for (name, _) in MISLEADING {
            assert!(seen.contains(name), "{name}");
        }
    }
}
