//! Settings of a host that concern its neighbours, as taskgate reads them and as the kernel applies them.

use std::fs;

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use taskgate_net::sysctl::NeighbourControl;
use testkit::{
    Netns,
    netns::{await_up, until},
    traffic::Sender,
};

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A message, the counter that shows its arrival, and the host's state that shows whether it was heeded.
struct Case {
    control: NeighbourControl,
    frame: Vec<u8>,
    counter: &'static str,
    shown_by: &'static str,
    heeded: &'static str,
    forget: &'static str,
}

fn link_local(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfe, 0x80, last);
    address
}

fn cases() -> Result<[Case; 3]> {
    let written = |builder: etherparse::PacketBuilderStep<etherparse::Icmpv6Header>, payload: &[u8]| {
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).map(|()| frame)
    };
    let mut all_nodes = link_local(1);
    (all_nodes[0], all_nodes[1]) = (0xff, 0x02);
    let advertisement = PacketBuilder::ethernet2(NEIGHBOUR, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(link_local(2), all_nodes, 255)
        .icmpv6_raw(134, 0, [64, 0, 7, 8]);
    let mut destination = [0; 16];
    (destination[0], destination[1], destination[15]) = (0xfd, 0x01, 1);
    let redirect = PacketBuilder::ethernet2(NEIGHBOUR, HOST)
        .ipv6(link_local(2), link_local(1), 255)
        .icmpv6_raw(137, 0, [0; 4]);
    let quoted = {
        let mut quoted = Vec::new();
        let reply = PacketBuilder::ipv4([10, 8, 0, 1], [10, 9, 0, 1], 64).icmpv4_echo_reply(1, 1);
        reply.write(&mut quoted, &[])?;
        quoted
    };
    let mut redirect_v4 = Vec::new();
    PacketBuilder::ethernet2(NEIGHBOUR, HOST)
        .ipv4([10, 8, 0, 2], [10, 8, 0, 1], 64)
        .icmpv4_raw(5, 1, [10, 8, 0, 3])
        .write(&mut redirect_v4, &quoted)?;
    Ok([
        Case {
            control: NeighbourControl::RouterAdvertisements,
            frame: written(advertisement, &[0; 8])?,
            counter: "Icmp6InRouterAdvertisements",
            shown_by: "-6 route show default",
            heeded: "via fe80::2",
            forget: "-6 route flush default",
        },
        Case {
            control: NeighbourControl::Redirects6,
            frame: written(redirect, &[link_local(3), destination].concat())?,
            counter: "Icmp6InRedirects",
            shown_by: "-6 route get fd01::1",
            heeded: "via fe80::3",
            forget: "-6 route flush cache",
        },
        Case {
            control: NeighbourControl::Redirects4,
            frame: redirect_v4,
            counter: "Icmp:InRedirects",
            shown_by: "route get 10.9.0.1",
            heeded: "via 10.8.0.3",
            forget: "route flush cache",
        },
    ])
}

/// A counter of a network namespace's.
fn count(netns: &Netns, counter: &str) -> Result<u64> {
    netns.run(|| {
        let found = if let Some((group, counter)) = counter.split_once(':') {
            let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let mut lines = text
                .lines()
                .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
            let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
            let mut pairs = names.split(' ').zip(values.split(' '));
            pairs
                .find(|(name, _)| *name == counter)
                .map(|(_, value)| value.to_owned())
        } else {
            let text = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            let mut words = text.lines().map(str::split_whitespace);
            words.find_map(|mut words| (words.next()? == counter).then(|| words.next().map(str::to_owned))?)
        };
        Ok(found.with_context(|| format!("no counter `{counter}`"))?.parse()?)
    })
}

/// Sets what `sysctl -w` would: in a name with slashes, dots are part of its components.
fn obey(netns: &Netns, remedy: &str) -> Result<()> {
    let settings = remedy.strip_prefix("sysctl -w ").context("it is another command")?;
    for setting in settings.split(' ') {
        let (name, value) = setting.split_once('=').context("no value")?;
        let name = if name.contains('/') {
            name.to_owned()
        } else {
            name.replace('.', "/")
        };
        netns.run(|| Ok(fs::write(format!("/proc/sys/{name}"), value)?))?;
    }
    Ok(())
}

#[test]
fn a_host_heeds_its_neighbours_as_its_settings_are_read() -> Result<()> {
    let (host, outside) = (Netns::new("host")?, Netns::new("outside")?);
    // An interface name with a dot, and everything that routes need to be redirected.
    host.add_veth("a.1", &outside, "b")?;
    for netns in [&host, &outside] {
        netns.set("net.ipv6.conf.all.accept_dad", "0")?;
    }
    outside.ip("link set dev b address 02:00:00:00:00:02 up")?;
    host.ip("link set dev a.1 address 02:00:00:00:00:01 addrgenmode none up
             address add 10.8.0.1/24 dev a.1
             address add fe80::1/64 dev a.1 nodad
             neighbour add 10.8.0.3 lladdr 02:00:00:00:00:03 dev a.1 nud permanent
             route add 10.9.0.0/16 via 10.8.0.2 dev a.1
             route add fd01::/64 via fe80::2 dev a.1")?;
    await_up(&[(&host, "a.1"), (&outside, "b")])?;
    let sender = Sender::on(&outside, "b")?;
    for case in cases()? {
        let (family, key) = match case.control {
            NeighbourControl::RouterAdvertisements => ("ipv6", "accept_ra"),
            NeighbourControl::Redirects6 => ("ipv6", "accept_redirects"),
            NeighbourControl::Redirects4 => ("ipv4", "accept_redirects"),
        };
        let set = |link: &str, key: &str, value: u8| {
            let path = format!("/proc/sys/net/{family}/conf/{link}/{key}");
            host.run(|| Ok(fs::write(&path, value.to_string())?))
        };
        for (forwarding, all, own) in [0, 1]
            .into_iter()
            .flat_map(|forwarding| [0, 1].map(|all| (forwarding, all)))
            .flat_map(|(forwarding, all)| [0, 1, 2].map(|own| (forwarding, all, own)))
        {
            set("a.1", "forwarding", forwarding)?;
            set("all", key, all)?;
            set("a.1", key, own)?;
            let before = count(&host, case.counter)?;
            // Once the second message is counted, the first one has been processed.
            for _ in 0..2 {
                sender.send(&case.frame)?;
            }
            until("both came", || Ok(count(&host, case.counter)? >= before + 2))?;
            let words: Vec<_> = case.shown_by.split(' ').collect();
            let heeded = host.output("ip", &words)?.contains(case.heeded);
            let told = host.run(|| Ok(case.control.is_heeded("a.1")))?;
            let place = format!("{} with {forwarding}, {all}, {own}", case.control);
            assert_eq!(told, heeded, "{place}");
            if heeded {
                let remedy = host.run(|| Ok(case.control.remedy("a.1")))?;
                obey(&host, &remedy)?;
                assert!(!host.run(|| Ok(case.control.is_heeded("a.1")))?, "{place}: {remedy}");
                let words: Vec<_> = case.forget.split(' ').collect();
                host.output("ip", &words)?;
            }
        }
    }
    Ok(())
}
