//! The ENIs that taskgate makes, on the running kernel.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use taskgate_net::{
    eni::{EniError, EniSpec, EniWarning, InUse, TaskEni, remove_orphans},
    link::{Link, LinkKind},
    netlink::Netlink,
    netns::Namespace,
    sysctl::NeighbourControl,
};
use testkit::{
    Capture, Netns,
    fixture::frames,
    sandbox::{ip, ip_batch, sandbox},
    traffic::{Sender, Unsummed},
};

pub(crate) fn addresses(number: u8) -> [IpAddr; 3] {
    [
        [10, 0, 1, number].into(),
        [10, 0, 2, number].into(),
        [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into(),
    ]
}

pub(crate) fn spec<'a>(task: &'a str, addresses: &'a [IpAddr]) -> EniSpec<'a> {
    EniSpec {
        instance: "test",
        task,
        namespace: task,
        addresses,
        fills_checksums: false,
    }
}

/// An open gate.
#[expect(clippy::unnecessary_wraps, reason = "what a gate's maker looks like")]
pub(crate) fn open(_: &Link) -> io::Result<()> {
    Ok(())
}

/// A socket in a task's namespace.
fn socket(namespace: &str, address: IpAddr) -> Result<UdpSocket> {
    let file = File::open(Namespace::path(namespace))?;
    let bind = || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        anyhow::Ok(socket)
    };
    thread::scope(|scope| scope.spawn(bind).join().expect("no panic in there"))
        .with_context(|| format!("cannot bind to {address} in {namespace}"))
}

/// Sends a datagram there and back, and returns its source address. A datagram that is lost on a busy machine is sent
/// again, since delivery is not guaranteed.
fn talk(from: &UdpSocket, to: &UdpSocket) -> Result<SocketAddr> {
    let mut buffer = [0; 8];
    let mut sent = || {
        from.send_to(b"there", to.local_addr()?)?;
        anyhow::Ok(to.recv_from(&mut buffer)?)
    };
    let (length, source) = sent().or_else(|_| sent()).context("it did not get there")?;
    ensure!(&buffer[..length] == b"there");
    to.send_to(b"back", source)?;
    let length = from.recv(&mut buffer).context("it did not come back")?;
    ensure!(&buffer[..length] == b"back");
    Ok(source)
}

#[test]
fn two_tasks_reach_each_other_and_the_host() -> Result<()> {
    sandbox(async || {
        ip("addr add 192.0.2.1/32 dev lo")?;
        ip("addr add fd01::1/128 dev lo")?;
        let netlink = Netlink::open()?;
        let (a, b) = (addresses(1), addresses(2));
        let (eni_a, ()) = TaskEni::make(&netlink, &spec("a", &a), open).await?;
        let (eni_b, ()) = TaskEni::make(&netlink, &spec("b", &b), open).await?;
        // Before 6.17 all links forward IPv6 or none does, and taskgate leaves that setting to the user.
        let by_link = Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists();
        if !by_link {
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
        }
        for (from, to) in a.into_iter().zip(b) {
            let (from, to) = (socket("a", from)?, socket("b", to)?);
            ensure!(talk(&from, &to)? == from.local_addr()?);
        }
        // From the host, under its own address.
        for (any, own, task) in [("0.0.0.0", "192.0.2.1", a[0]), ("::", "fd01::1", a[2])] {
            let host = UdpSocket::bind((any.parse::<IpAddr>()?, 0))?;
            host.set_read_timeout(Some(Duration::from_secs(5)))?;
            ensure!(talk(&host, &socket("a", task)?)?.ip() == own.parse::<IpAddr>()?);
        }
        // A task that binds to nothing speaks as its first address.
        let any = socket("b", "0.0.0.0".parse()?)?;
        ensure!(talk(&any, &socket("a", a[1])?)?.ip() == b[0]);

        // All neighbour entries are permanent: no address had to be resolved.
        let of = |namespace: &str, link: &str| ip(&format!("{namespace} neighbour show nud permanent dev {link}"));
        for (known, addresses) in [
            (
                of("", &eni_a.link().name)?,
                a.map(|address| address.to_string()).to_vec(),
            ),
            (of("-n a", "eth0")?, vec!["169.254.1.1".into(), "fe80::1".into()]),
        ] {
            let mut found: Vec<_> = known
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            let mut expected: Vec<_> = addresses.iter().map(String::as_str).collect();
            found.sort_unstable();
            expected.sort_unstable();
            ensure!(found == expected, "{found:?}, not {expected:?}");
        }

        let off = |sysctl, among_tasks| EniWarning::ForwardingOff { sysctl, among_tasks };
        ensure!(
            eni_a.warnings()
                == [
                    off("net.ipv4.ip_forward", true),
                    off("net.ipv6.conf.all.forwarding", by_link)
                ]
        );
        ensure!(
            eni_a.warnings()[0].to_string()
                == "`net.ipv4.ip_forward` is 0: tasks reach each other and this host, but nothing beyond it; turn it on \
                    with `sysctl -w net.ipv4.ip_forward=1`"
        );
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
        eni_b.remove(&netlink).await?;
        let (eni_b, ()) = TaskEni::make(&netlink, &spec("b", &b), open).await?;
        ensure!(eni_b.warnings() == []);

        eni_a.remove(&netlink).await?;
        eni_b.remove(&netlink).await?;
        ensure!(fs::read_dir("/run/netns")?.count() == 0);
        ensure!(ip("-o link")?.lines().count() == 1);
        Ok(())
    })
}

#[test]
fn an_eni_is_gated_before_its_links_are_up() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("a", &all);
        let mut seen = None;
        let (eni, gate) = TaskEni::make(&netlink, &spec, |link| {
            let inside = ip("-n a -br link show eth0");
            let outside = ip(&format!("-br link show {}", link.name));
            let own = [
                "ipv6/{}/accept_ra",
                "ipv6/{}/accept_redirects",
                "ipv4/{}/accept_redirects",
                "ipv4/{}/send_redirects",
            ];
            let path = |own: &str| format!("/proc/sys/net/{}", own.replace("{}", &format!("conf/{}", link.name)));
            seen = Some((
                link.clone(),
                inside,
                outside,
                own.map(|own| fs::read_to_string(path(own))),
            ));
            io::Result::Ok("the gate")
        })
        .await?;
        let (link, inside, outside, settings) = seen.context("there was no gate")?;
        for setting in settings {
            ensure!(setting?.trim() == "0");
        }
        ensure!(NeighbourControl::ALL.map(|control| control.is_heeded(&link.name)) == [false; 3]);
        ensure!(gate == "the gate" && &link == eni.link());
        for (name, shown) in [("eth0", inside?), (&*link.name, outside?)] {
            ensure!(
                shown.starts_with(name) && shown.contains(" DOWN ") && !shown.contains("UP"),
                "{shown}"
            );
        }
        ensure!(link.kind == LinkKind::Veth { peer_here: None } && link.name == spec.link_name());
        ensure!(link.name.len() == 15 && link.name.starts_with("tg-"));
        ensure!(eni.made_namespace() && eni.namespace().name() == "a");
        ensure!(ip(&format!("link show {}", link.name))?.contains("alias taskgate test a"));

        let shown = ip("-n a -br addr show eth0")?;
        let shown: Vec<_> = shown.split_whitespace().skip(2).collect();
        ensure!(
            shown[..2] == ["10.0.1.1/32", "10.0.2.1/32"] && shown[2..].contains(&"fd00::1/128"),
            "{shown:?}"
        );
        let routes: String = ["-n a route", "-n a -6 route show default"]
            .map(ip)
            .into_iter()
            .collect::<Result<_>>()?;
        let routes: Vec<_> = routes.lines().map(str::trim).collect();
        ensure!(
            routes
                == [
                    "default via 169.254.1.1 dev eth0 proto static src 10.0.1.1 onlink",
                    "default via fe80::1 dev eth0 proto static src fd00::1 metric 1024 pref medium"
                ],
            "{routes:?}"
        );
        ensure!(ip("-n a -br link show lo")?.contains("UNKNOWN"));
        let shown = ip(&format!("-br addr show {}", link.name))?;
        let shown: Vec<_> = shown.split_whitespace().skip(2).collect();
        ensure!(shown == ["169.254.1.1/32", "fe80::1/64"], "{shown:?}");
        Ok(())
    })
}

#[derive(Debug, thiserror::Error)]
#[error("no gate today")]
struct NoGate;

#[test]
fn what_fails_is_undone() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let error = TaskEni::make(&netlink, &spec("a", &all), |_| Err::<(), _>(NoGate))
            .await
            .unwrap_err();
        ensure!(error.to_string() == "the gate of task `a` does not stand");
        // The second of two equal addresses cannot be added: everything made before is undone.
        let twice = [all[0], all[0]];
        let error = TaskEni::make(&netlink, &spec("a", &twice), open).await.unwrap_err();
        ensure!(
            error.to_string() == "cannot add address `10.0.1.1/32 on eth0`",
            "{error}"
        );
        for name in ["", ".", "..", "a/b", &"a".repeat(256)] {
            let spec = EniSpec {
                namespace: name,
                ..spec("a", &all)
            };
            let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
            ensure!(
                error.to_string() == format!("cannot open namespace `{name}`"),
                "{error}"
            );
        }
        ensure!(fs::read_dir("/run/netns")?.count() == 0);
        ensure!(ip("-o link")?.lines().count() == 1);
        Ok(())
    })
}

#[test]
fn a_namespace_of_the_users_stays() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        ip("netns add a")?;
        let all = addresses(1);
        let spec = spec("a", &all);
        let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
        ensure!(!eni.made_namespace());
        eni.remove(&netlink).await?;
        ensure!(ip("-n a -o link")?.lines().count() == 1);

        ip("-n a link add eth0 type bridge")?;
        let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
        ensure!(
            error.to_string()
                == "namespace `a` already has an `eth0`: take it away, or name another namespace for the task"
        );
        ensure!(matches!(error, EniError::Occupied { .. }));
        ensure!(ip("-n a -o link")?.lines().count() == 2);
        ensure!(ip("-o link")?.lines().count() == 1);
        Ok(())
    })
}

/// Leaves the file of a run that was killed after creating it and before binding the namespace to it.
pub(crate) fn placeholder(namespace: &str) -> Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o444);
    options.open(Namespace::path(namespace))?;
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_replaced() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("a", &all);
        let (left, ()) = TaskEni::make(&netlink, &spec, open).await?;
        // One run is killed here, the next before the host's end got its alias, and the next while making the namespace.
        let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
        ensure!(eni.link().ifindex != left.link().ifindex && eni.made_namespace());
        ip_batch(&format!("link set {} alias \"\"\n", eni.link().name))?;
        ensure!(!ip(&format!("link show {}", eni.link().name))?.contains("alias"));
        let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
        ensure!(eni.made_namespace());
        ip("netns del a")?;
        placeholder("a")?;
        let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
        ensure!(eni.made_namespace());
        eni.remove(&netlink).await?;
        ensure!(fs::read_dir("/run/netns")?.count() == 0);
        ensure!(ip("-o link")?.lines().count() == 1);
        Ok(())
    })
}

#[test]
fn what_no_task_needs_any_more_goes() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let left = remove_orphans(&netlink, "test", &InUse::default()).await;
        ensure!(left.removed.is_empty() && left.kept.is_empty(), "{left:?}");
        ip("netns add own")?;
        let (old, kept, own, other) = (addresses(1), addresses(2), addresses(3), addresses(4));
        let own = EniSpec {
            namespace: "own",
            ..spec("in-own", &own)
        };
        let other = EniSpec {
            instance: "other",
            ..spec("other", &other)
        };
        let all = [spec("old", &old), spec("kept", &kept), own, other];
        for spec in &all {
            TaskEni::make(&netlink, spec, open).await?;
        }
        let in_use = InUse {
            links: [all[2].link_name()].into(),
            namespaces: ["kept"].into(),
        };
        let left = remove_orphans(&netlink, "test", &in_use).await;
        let links = all[..2].iter().map(EniSpec::link_name);
        let expected: BTreeSet<_> = links.chain(["old".to_owned()]).collect();
        ensure!(left.kept.is_empty(), "{left:?}");
        ensure!(left.removed.into_iter().collect::<BTreeSet<_>>() == expected);
        ensure!(namespaces()? == ["own", "kept", "other"].map(str::to_owned).into());
        ensure!(ip("-n own -o link")?.lines().count() == 2);
        ensure!(ip("-o link")?.lines().count() == 3);
        let (eni, ()) = TaskEni::make(&netlink, &all[2], open).await?;
        eni.remove(&netlink).await?;

        // The one that stayed goes with the ENI that is made there, though another task has it now.
        let late = EniSpec {
            namespace: "kept",
            ..spec("late", &kept)
        };
        let (eni, ()) = TaskEni::make(&netlink, &late, open).await?;
        ensure!(eni.made_namespace());
        eni.remove(&netlink).await?;
        ensure!(namespaces()? == ["own", "other"].map(str::to_owned).into());
        ensure!(!Path::new("/run/taskgate/test.provisioned").exists());
        Ok(())
    })
}

fn namespaces() -> Result<BTreeSet<String>> {
    let names = fs::read_dir("/run/netns")?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[test]
fn a_foreign_link_in_the_way_stays() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("a", &all);
        let name = spec.link_name();
        ip(&format!("link add {name} type bridge"))?;
        let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
        ensure!(
            error.to_string()
                == format!(
                    "link `{name}` is in the way and was not made by taskgate for task `a`: remove or rename it"
                ),
            "{error}"
        );
        ip(&format!("link set {name} alias mine"))?;
        let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
        ensure!(
            error.to_string().contains("for task `a` (it says `mine`): remove"),
            "{error}"
        );
        ensure!(ip("-o link")?.lines().count() == 2);
        ensure!(!Namespace::path("a").exists());
        Ok(())
    })
}

#[test]
fn the_hosts_own_namespace_is_no_tasks() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        fs::create_dir_all("/run/netns")?;
        let own = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        symlink(own, Namespace::path("own"))?;
        let all = addresses(1);
        let error = TaskEni::make(&netlink, &spec("own", &all), open).await.unwrap_err();
        ensure!(matches!(error, EniError::OwnNetwork { .. }), "{error}");
        ensure!(ip("-o link")?.lines().count() == 1);
        Ok(())
    })
}

#[test]
fn names_differ_by_instance_and_task() {
    let name = |instance, task| {
        EniSpec {
            instance,
            ..spec(task, &[])
        }
        .link_name()
    };
    assert_eq!(name("default", "web"), name("default", "web"));
    assert_ne!(name("default", "web"), name("default", "db"));
    assert_ne!(name("default", "web"), name("other", "web"));
    assert_ne!(name("a", "bc"), name("ab", "c"));
}

/// A gate that cannot see a pending checksum needs packets in which it is already filled in.
#[test]
fn a_task_whose_end_fills_in_checksums_sends_what_it_will_be() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        for (fills_checksums, port) in [(false, 443_u16), (true, 22)] {
            let spec = EniSpec {
                fills_checksums,
                ..spec("fills", &all)
            };
            let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
            let capture = Capture::tap(&Netns::here()?, &eni.link().name)?;
            let sender = Sender::on(&Netns::named("fills")?, "eth0")?;
            let datagram = frames::udp(4000, 443, b"data");
            let mut frame = frames::ip(all[0], [192, 0, 2, 1].into(), 17, &datagram);
            // The sum covers the destination port and all bytes after it: the last word is the complement of the wanted
            // port.
            let start = 14 + 20 + 2;
            frame.truncate(start + 2);
            frame.extend((!22_u16 - 443).to_be_bytes());
            let unsummed = Unsummed {
                start: start as u16,
                offset: 0,
            };
            ensure!(sender.send_unsummed(&frame, unsummed)?, "it is not sent");
            frame[start..start + 2].copy_from_slice(&port.to_be_bytes());
            capture.await_bytes(&frame[12..])?;
            eni.remove(&netlink).await?;
        }
        Ok(())
    })
}
