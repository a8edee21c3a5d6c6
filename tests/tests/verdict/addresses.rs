//! A task sends and receives only under its own addresses, and needs no rule to reach the platform's services.

use anyhow::Result;
use taskgate_ebpf::abi::Direction;
use taskgate_model::AddressList;
use testkit::fixture::{all_gated, frames::*, model::member, on_host_and_in_kernel};

use super::*;

const METADATA: &str = "169.254.169.254";
const METADATA6: &str = "fd00:ec2::254";

fn open() -> Model {
    let any = [(Protocol::All, "0.0.0.0/0"), (Protocol::All, "::/0")];
    with_rules(&any, &any)
}

fn from_to(source: &str, destination: &str) -> Vec<u8> {
    ip(at(source), at(destination), 6, &tcp(40000, 80, flags::SYN, b""))
}

#[test]
fn a_task_sends_as_itself_and_hears_what_is_for_it() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for checks in [true, false] {
            let mut model = open();
            model.enis[0].source_dest_check = checks;
            // The address of another ENI, on this host or elsewhere.
            model.enis.push(member("other", &["10.9.0.6"], &[0]));
            test.set(model)?;
            for (source, destination, own) in [
                (TASK4, STRANGER4, true),
                (TASK6, STRANGER6, true),
                ("10.9.0.6", STRANGER4, false),
                ("10.9.0.99", STRANGER4, false),
                ("2001:db8:9::99", STRANGER6, false),
                ("0.0.0.0", STRANGER4, false),
            ] {
                let out = from_to(source, destination);
                assert_eq!(test.egress(&out)?, own || !checks, "from {source}, {}", test.name);
                let toward = ip(at(destination), at(source), 6, &tcp(80, 443, flags::SYN, b""));
                assert_eq!(test.ingress(&toward)?, own || !checks, "to {source}, {}", test.name);
            }
            // From outside under the task's own address, with and without the source/destination check.
            assert!(!test.ingress(&from_to(TASK4, TASK4))?);
            assert!(!test.ingress(&from_to(TASK6, TASK6))?);
        }
        test.set(open())?;
        assert!(!test.egress(&from_to("10.9.0.99", STRANGER4))?);
        assert!(!test.ingress(&from_to(STRANGER4, "10.9.0.99"))?);
        test.assert_lines(
            "reasons",
            &[
                "count task egress spoofed-source 1",
                "count task ingress not-for-task 1",
                "denied task egress tcp 10.9.0.99:40000 203.0.113.9:80 spoofed-source, 1 packets 40 bytes flags 2",
                "denied task ingress tcp 10.9.0.99:80 203.0.113.9:40000 not-for-task, 1 packets 40 bytes flags 2",
            ],
        );
        Ok(())
    })
}

/// A task may use its link-local addresses toward hosts on its link, by the rules, and nowhere else.
#[test]
fn a_link_local_address_is_the_tasks_on_its_link() -> Result<()> {
    const OWN: &str = "fe80::5";
    on_host_and_in_kernel(|test| {
        let rules = [
            (udp_to(53), "fe80::/10"),
            (udp_to(5353), "ff02::fb/128"),
            (Protocol::Number(112), "ff02::12/128"),
            (Protocol::Number(89), "::/0"),
        ];
        test.set(with_rules(&[(tcp_to(80, 80), "fe80::/10")], &rules))?;
        for (what, destination, protocol, payload, passes) in [
            ("DNS", "fe80::1", 17, udp(40000, 53, b"?"), true),
            ("what no rule allows", "fe80::1", 17, udp(40000, 54, b"?"), false),
            ("mDNS", "ff02::fb", 17, udp(5353, 5353, b"?"), true),
            ("VRRPv3", "ff02::12", 112, vec![0x31; 8], true),
            ("OSPFv3", "ff02::5", 89, vec![3; 16], true),
            ("beyond the link", STRANGER6, 89, vec![3; 16], false),
            ("to all of the site", "ff05::2", 89, vec![3; 16], false),
        ] {
            let frame = ip(at(OWN), at(destination), protocol, &payload);
            assert_eq!(test.egress(&frame)?, passes, "{what}, {}", test.name);
        }
        // An answer, and requests.
        assert!(test.ingress(&ip(at("fe80::1"), at(OWN), 17, &udp(53, 40000, b"!")))?);
        assert!(test.ingress(&ip(at("fe80::1"), at(OWN), 6, &tcp(40000, 80, flags::SYN, b"")))?);
        assert!(!test.ingress(&ip(at("fe80::1"), at(OWN), 6, &tcp(40000, 81, flags::SYN, b"")))?);
        let lines = test.lines()?;
        let denied: Vec<&str> = lines
            .iter()
            .filter(|line| line.starts_with("denied"))
            .map(String::as_str)
            .collect();
        assert_eq!(
            denied,
            [
                "denied task egress 89 fe80::5 2001:db8:bad::9 spoofed-source, 1 packets 56 bytes",
                "denied task egress 89 fe80::5 ff05::2 spoofed-source, 1 packets 56 bytes",
                "denied task egress udp [fe80::5]:40000 [fe80::1]:54 no-rule, 1 packets 49 bytes",
                "denied task ingress tcp [fe80::5]:81 [fe80::1]:40000 no-rule, 1 packets 60 bytes flags 2",
            ],
            "{}",
            test.name
        );
        Ok(())
    })
}

#[test]
fn what_a_task_opens_to_the_platform_needs_no_rule() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[], &[]))?;
        assert!(test.egress(&from_to(TASK4, METADATA))?);
        assert!(test.ingress(&ip(at(METADATA), at(TASK4), 6, &tcp(80, 40000, flags::SYN_ACK, b"")))?);
        assert!(test.egress(&from_to(TASK6, METADATA6))?);
        test.assert_lines(
            "exempt",
            &[
                "conn task tcp 10.9.0.5:40000 169.254.169.254:80 by exempt, egress 1 packets 40 bytes flags 2, ingress 1 packets 40 bytes flags 18: replied",
                "conn task tcp [2001:db8:9::5]:40000 [fd00:ec2::254]:80 by exempt, egress 1 packets 60 bytes flags 2, ingress 0 packets 0 bytes:",
                "count task egress exempt 2",
            ],
        );
        let mut none = with_rules(&[], &[]);
        none.settings.exempt = AddressList::None;
        test.set(none)?;
        assert!(!test.egress(&from_to(TASK4, METADATA))?);
        let mut listed = with_rules(&[], &[]);
        listed.settings.exempt = AddressList::List(vec![at(STRANGER4)]);
        test.set(listed)?;
        assert!(!test.egress(&from_to(TASK4, METADATA))?);
        assert!(test.egress(&from_to(TASK4, STRANGER4))?);
        Ok(())
    })
}

#[test]
fn an_exempt_address_as_a_source_from_outside_opens_nothing() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[], &[]))?;
        assert!(!test.ingress(&from_to(METADATA, TASK4))?);
        assert!(!test.ingress(&from_to(METADATA6, TASK6))?);
        // Neither in IPv6 under an IPv4-mapped address, nor from a task with a spoofed source.
        assert!(!test.egress(&from_to(TASK6, "::ffff:169.254.169.254"))?);
        assert!(!test.egress(&from_to("10.9.0.99", METADATA))?);
        test.assert_lines(
            "denied",
            &[
                "count task egress malformed 1",
                "count task egress spoofed-source 1",
                "count task ingress no-rule 2",
                "denied task egress tcp 10.9.0.99:40000 169.254.169.254:80 spoofed-source, 1 packets 40 bytes flags 2",
                "denied task egress tcp [2001:db8:9::5]:0 [::ffff:169.254.169.254]:0 malformed, 1 packets 60 bytes",
                "denied task ingress tcp 10.9.0.5:80 169.254.169.254:40000 no-rule, 1 packets 40 bytes flags 2",
                "denied task ingress tcp [2001:db8:9::5]:80 [fd00:ec2::254]:40000 no-rule, 1 packets 60 bytes flags 2",
            ],
        );
        Ok(())
    })
}

#[test]
fn dhcp_that_the_task_begins_is_answered_from_anywhere() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let ask = |source: &str| ip(at(source), at("255.255.255.255"), 17, &udp(68, 67, b"discover"));
        let offer = |to: &str| ip(at("10.9.0.1"), at(to), 17, &udp(67, 68, b"offer"));
        test.set(with_rules(&[], &[]))?;
        assert!(!test.ingress(&offer(TASK4))?, "before the task asks");
        assert!(test.egress(&ask("0.0.0.0"))?);
        assert!(test.ingress(&offer(TASK4))?);
        assert!(test.ingress(&offer("255.255.255.255"))?);
        assert!(!test.ingress(&offer("10.9.0.44"))?, "to somebody else");
        assert!(test.egress(&ask(TASK4))?, "as itself");
        assert!(!test.egress(&ask("10.9.0.44"))?, "as somebody else");
        assert!(
            !test.egress(&ip(at("0.0.0.0"), at("0.0.0.0"), 17, &udp(68, 67, b"")))?,
            "to nobody"
        );
        assert!(
            !test.egress(&ip(at("0.0.0.0"), at("10.9.0.1"), 17, &udp(68, 67, b"")))?,
            "to one server"
        );
        assert!(
            !test.ingress(&ip(at("10.9.0.1"), at("10.9.0.44"), 17, &udp(67, 69, b"")))?,
            "another port"
        );
        let solicit = ip(at("fe80::5"), at("ff02::1:2"), 17, &udp(546, 547, b"solicit"));
        assert!(test.egress(&solicit)?);
        assert!(test.ingress(&ip(at("fe80::1"), at("fe80::5"), 17, &udp(547, 546, b"advertise")))?);
        // Answers, however many, do not keep the flow open.
        for _ in 0..3 {
            test.wait(14)?;
            let passes = [test.ingress(&offer(TASK4))?, test.ingress(&offer("255.255.255.255"))?];
            assert_eq!(passes[0], passes[1]);
        }
        assert!(!test.ingress(&offer(TASK4))?, "too late");
        assert!(!test.ingress(&ip(at("fe80::1"), at("fe80::5"), 17, &udp(547, 546, b"advertise")))?);
        test.assert_lines(
            "DHCP",
            &[
                "conn task udp 0.0.0.0:68 255.255.255.255:67 by exempt, egress 2 packets 72 bytes, ingress 6 packets 198 bytes:",
                "conn task udp [fe80::]:546 [ff02::1:2]:547 by exempt, egress 1 packets 55 bytes, ingress 1 packets 57 bytes:",
                "count task egress exempt 3",
                "count task egress spoofed-source 3",
                "count task ingress exempt 7",
                "count task ingress no-rule 4",
                "count task ingress not-for-task 3",
                "denied task egress udp 0.0.0.0:68 0.0.0.0:67 spoofed-source, 1 packets 28 bytes",
                "denied task egress udp 0.0.0.0:68 10.9.0.1:67 spoofed-source, 1 packets 28 bytes",
                "denied task egress udp 10.9.0.44:68 255.255.255.255:67 spoofed-source, 1 packets 36 bytes",
                "denied task ingress udp 10.9.0.44:68 10.9.0.1:67 not-for-task, 1 packets 33 bytes",
                "denied task ingress udp 10.9.0.44:69 10.9.0.1:67 not-for-task, 1 packets 28 bytes",
                "denied task ingress udp 10.9.0.5:68 10.9.0.1:67 no-rule, 3 packets 99 bytes",
                "denied task ingress udp [fe80::5]:546 [fe80::1]:547 no-rule, 1 packets 57 bytes",
            ],
        );
        let mut none = with_rules(&[], &[]);
        none.settings.exempt = AddressList::None;
        test.set(none)?;
        assert!(!test.egress(&ask("0.0.0.0"))?);
        Ok(())
    })
}

#[test]
fn a_link_that_is_nobodys_and_a_task_that_is_isolated_pass_nothing() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(open())?;
        assert!(!test.send(Direction::Egress, 3, &from_to(TASK4, STRANGER4))?);
        assert!(!test.send(Direction::Ingress, 3, &from_to(STRANGER4, TASK4))?);
        assert!(!test.send(Direction::Egress, 3, &arp(1, at(TASK4), at("10.9.0.1")))?);
        test.assert_lines(
            "nobody's",
            &[
                "count nobody egress unknown-task 2",
                "count nobody ingress unknown-task 1",
            ],
        );

        test.set_with(open(), &|eni| {
            let gate = all_gated(eni)?;
            Some(taskgate_compiler::EniLimits { isolated: true, ..gate })
        })?;
        assert!(!test.egress(&from_to(TASK4, METADATA))?);
        assert!(!test.egress(&arp(1, at(TASK4), at("10.9.0.1")))?);
        assert!(!test.ingress(&from_to(STRANGER4, TASK4))?);
        test.assert_lines(
            "isolated",
            &[
                "count task egress isolated 2",
                "count task ingress isolated 1",
                "denied task egress tcp 10.9.0.5:40000 169.254.169.254:80 isolated, 1 packets 40 bytes flags 2",
                "denied task ingress tcp 10.9.0.5:80 203.0.113.9:40000 isolated, 1 packets 40 bytes flags 2",
            ],
        );
        Ok(())
    })
}
