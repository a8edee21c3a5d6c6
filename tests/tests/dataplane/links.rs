//! Identification of links, and events as they come and go.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use taskgate_net::{
    link::{LinkKind, UplinkPeer},
    netlink::Netlink,
    watch::{LinkEvent, LinkWatch},
};
use testkit::sandbox::{ip, ip_batch, sandbox};

#[test]
fn links_are_told_apart_by_kind() -> Result<()> {
    sandbox(async || {
        ip("netns add there")?;
        ip("link add here-a type veth peer name here-b")?;
        ip("link add far type veth peer name eth0 netns there")?;
        ip("link add other type bridge")?;
        let netlink = Netlink::open()?;
        let here_b = netlink.link("here-b").await?;
        let far = netlink.link("far").await?;
        ensure!(
            netlink.link("here-a").await?.kind
                == LinkKind::Veth {
                    peer_here: Some(here_b.ifindex)
                }
        );
        ensure!(far.kind == LinkKind::Veth { peer_here: None } && far.name == "far" && far.ifindex != 0);
        let refused = [
            ("none", "there is no link `none`"),
            ("", "there is no link ``"),
            (
                "a-name-too-long-for-links",
                "there is no link `a-name-too-long-for-links`",
            ),
            (
                "other",
                "link `other` is of kind `bridge`: a gate works on `veth` and `vlan` links",
            ),
            (
                "lo",
                "link `lo` is of kind `device`: a gate works on `veth` and `vlan` links",
            ),
        ];
        for (name, message) in refused {
            assert_eq!(netlink.link(name).await.unwrap_err().to_string(), message);
        }
        Ok(())
    })
}

#[test]
fn an_uplink_is_any_link_with_ethernet_headers() -> Result<()> {
    sandbox(async || {
        ip("netns add there")?;
        ip("link add here-a type veth peer name here-b")?;
        ip("link add far type veth peer name eth0 netns there")?;
        ip("link add other type bridge")?;
        let netlink = Netlink::open()?;
        let here_b = netlink.link("here-b").await?.ifindex;
        for (name, other_end) in [
            ("here-a", UplinkPeer::Here(here_b)),
            ("far", UplinkPeer::Elsewhere),
            ("other", UplinkPeer::Wire),
        ] {
            let link = netlink.uplink(name).await?;
            ensure!(link.kind == LinkKind::Uplink(other_end) && link.name == name && link.ifindex != 0);
            ensure!(!link.faces_task());
        }
        for (name, message) in [
            ("none", "there is no link `none`"),
            ("lo", "link `lo` has no Ethernet headers: an uplink has"),
        ] {
            assert_eq!(netlink.uplink(name).await.unwrap_err().to_string(), message);
        }
        Ok(())
    })
}

fn next(watch: &mut LinkWatch) -> Result<LinkEvent> {
    watch.next(Duration::from_secs(10))?.context("nothing came or went")
}

#[test]
fn a_watch_sees_links_come_change_their_name_and_go() -> Result<()> {
    sandbox(async || {
        ip("link add first type veth peer name first-peer")?;
        let netlink = Netlink::open()?;
        let mut watch = LinkWatch::new()?;
        let mut names = BTreeSet::new();
        for _ in 0..3 {
            match next(&mut watch)? {
                LinkEvent::Present { name, .. } => names.insert(name),
                other => bail!("{other:?}"),
            };
        }
        ensure!(names == ["lo", "first", "first-peer"].map(str::to_owned).into());

        ip("link add second type veth peer name second-peer")?;
        let (second, peer) = (netlink.link("second").await?, netlink.link("second-peer").await?);
        ip("link set second up")?;
        ip("link set second-peer name renamed")?;
        ip("link del second")?;
        let present = |name: &str, ifindex| LinkEvent::Present {
            name: name.to_owned(),
            ifindex,
            unseen: false,
        };
        let gone = |name: &str, ifindex, renamed| LinkEvent::Gone {
            name: name.to_owned(),
            ifindex,
            moved: None,
            renamed,
        };
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(next(&mut watch)?);
        }
        let of_second = [present("second", second.ifindex), gone("second", second.ifindex, false)];
        let of_peer = [
            present("second-peer", peer.ifindex),
            gone("second-peer", peer.ifindex, true),
            present("renamed", peer.ifindex),
            gone("renamed", peer.ifindex, false),
        ];
        let of = |names: &[&str]| -> Vec<_> {
            let named = |event: &&LinkEvent| match event {
                LinkEvent::Present { name, .. } | LinkEvent::Gone { name, .. } => names.contains(&&**name),
                LinkEvent::Attached { .. } => false,
            };
            seen.iter().filter(named).cloned().collect()
        };
        ensure!(of(&["second"]) == of_second, "{seen:?}");
        ensure!(of(&["second-peer", "renamed"]) == of_peer, "{seen:?}");
        Ok(())
    })
}

/// When a port leaves a bridge, the bridge's notification says that the link is gone.
#[test]
fn a_watch_sees_links_become_ports_of_a_bridge_and_leave_it() -> Result<()> {
    sandbox(async || {
        ip_batch("link add bridge type bridge\nlink add port type veth peer name port-peer")?;
        let netlink = Netlink::open()?;
        let (port, bridge) = (
            netlink.link("port").await?.ifindex,
            netlink.uplink("bridge").await?.ifindex,
        );
        let mut watch = LinkWatch::new()?;
        while watch.poll()?.is_some() {}
        for (change, segment) in [
            ("link set port master bridge", Some(bridge)),
            ("link set port nomaster", None),
        ] {
            ip(change)?;
            let event = next(&mut watch)?;
            ensure!(event == LinkEvent::Attached { ifindex: port }, "{change}: {event:?}");
            ensure!(watch.segment(port) == segment, "{change}: {:?}", watch.segment(port));
        }
        ensure!(watch.link("port").is_some_and(|(_, link)| link.task().is_ok()));
        Ok(())
    })
}

#[test]
fn a_watch_that_was_overrun_reads_all_links_again() -> Result<()> {
    sandbox(async || {
        let mut watch = LinkWatch::new()?;
        let LinkEvent::Present { .. } = next(&mut watch)? else {
            bail!("`lo` is there");
        };
        // The socket is not read meanwhile: it has room for some hundred messages.
        let mut batch = String::from("link add early type bridge\n");
        for number in 0..4000 {
            writeln!(batch, "link set lo alias {number}")?;
        }
        batch += "link add late type bridge\nlink del early\n";
        ip_batch(&batch)?;
        loop {
            if matches!(next(&mut watch)?, LinkEvent::Present { name, .. } if name == "late") {
                break;
            }
        }
        // Its deletion was reported before, or the link was never seen.
        let more = watch.next(Duration::from_millis(200))?;
        ensure!(more.is_none(), "{more:?}");
        Ok(())
    })
}
