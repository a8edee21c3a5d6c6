//! The dataplane against the running kernel: tables, links and gates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    net::UdpSocket,
    sync::{
        Mutex,
        atomic::Ordering::Relaxed,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use taskgate::dataplane::{
    flow::{ConnState, Count, DenialState, FlowKey, FlowTables as _, UsageState},
    gate::{GateError, Hook},
    link::{Link, LinkEvent, LinkKind, LinkWatch},
    load::LoadOptions,
    netlink::Netlink,
    object::Object,
    raw::{self, Packet},
    tables::KernelTables,
};
use taskgate_ebpf::abi::{
    ABI_HASH, Conn, Denial, Direction, Key4, Key6, Outcome, Reason, Usage,
    image::{BANK_BYTES, CONTROL_WINDOW, POLICY_BANK},
    program,
    tables::{denial_tail, pair},
};
use taskgate_tests::sandbox::{ip, ip_batch, sandbox};

const SMALL: LoadOptions = LoadOptions {
    conns: 4096,
    denials: 1024,
    slots: 64,
    policy_banks: 1,
    log_level: log::LevelFilter::Off,
};

#[test]
fn a_loaded_program_has_the_sizes_asked_for() -> Result<()> {
    let object = Object::load(&SMALL)?;
    let image = object.image()?;
    ensure!(image.len() == (POLICY_BANK as usize + 1) * BANK_BYTES as usize / 8);
    ensure!(image[0].load(Relaxed) == ABI_HASH);
    ensure!(image[1..].iter().all(|word| word.load(Relaxed) == 0));
    ensure!(object.usage()?.len() == 64 * size_of::<Usage>() / 8);
    let tables = KernelTables::new(&object)?;
    ensure!(tables.raw_conns_v4().capacity() == 4096 && tables.raw_conns_v6().capacity() == 4096);
    ensure!(tables.raw_denials_v4().capacity() == 1024 && tables.raw_denials_v6().capacity() == 1024);

    let verified: Vec<_> = object.verified_instructions()?;
    let names: Vec<_> = verified.iter().map(|(name, _)| *name).collect();
    ensure!(names == Object::PROGRAMS);
    ensure!(verified.iter().all(|(_, count)| count.is_some_and(|count| count > 0)));
    Ok(())
}

#[test]
fn sizes_out_of_range_are_refused() {
    let cases = [
        (
            LoadOptions { conns: 0, ..SMALL },
            "the kernel program cannot be loaded with 0 tracked connections: 1 to 67108864 will do",
        ),
        (
            LoadOptions { denials: 0, ..SMALL },
            "the kernel program cannot be loaded with 0 denied flows: 1 to 67108864 will do",
        ),
        (
            LoadOptions { slots: 8193, ..SMALL },
            "the kernel program cannot be loaded with 8193 slots: 2 to 8192 will do",
        ),
        (
            LoadOptions {
                policy_banks: 0,
                ..SMALL
            },
            "the kernel program cannot be loaded with 0 banks of policies: 1 to 4096 will do",
        ),
    ];
    for (options, message) in cases {
        assert_eq!(Object::load(&options).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_clock_goes_at_the_rate_it_says() -> Result<()> {
    let mut tables = KernelTables::new(&Object::load(&SMALL)?)?;
    let (began, first) = (Instant::now(), tables.now()?);
    thread::sleep(Duration::from_millis(300));
    let ticks = f64::from(tables.now()?.wrapping_sub(first));
    let expected = began.elapsed().as_secs_f64() * f64::from(tables.ticks_per_second());
    ensure!(
        (ticks - expected).abs() <= 2.0 + expected / 10.0,
        "{ticks} ticks, not {expected}"
    );
    Ok(())
}

fn conn(number: u32) -> Conn {
    let (packets, bytes) = (number.into(), u64::from(number) << 40);
    Conn::from([packets, 0, 0, bytes, 0, 0, pair(number, 1 + number % 3), 0])
}

fn key_v4(number: u32) -> Key4 {
    Key4 {
        addresses: 0x0a00_0001_0a00_0000 | u64::from(number),
        ports: number * 65_536 + 443,
        tail: 7 << 8 | 6,
    }
}

fn key_v6(number: u32) -> Key6 {
    Key6 {
        local: [0xfd00 << 48, number.into()],
        ..Key6::default()
    }
}

#[test]
fn connections_are_read_and_taken_whole() -> Result<()> {
    let mut tables = KernelTables::new(&Object::load(&SMALL)?)?;
    let mut expected = BTreeMap::new();
    for number in 0..4096 {
        tables.raw_conns_v4().put(&key_v4(number), &conn(number))?;
        expected.insert(FlowKey::V4(key_v4(number)), ConnState::from(&conn(number)));
    }
    for number in 0..10 {
        tables.raw_conns_v6().put(&key_v6(number), &conn(number))?;
        expected.insert(FlowKey::V6(key_v6(number)), ConnState::from(&conn(number)));
    }

    let mut found = BTreeMap::new();
    tables.conns(&mut |key, conn| assert_eq!(found.insert(key, conn), None))?;
    ensure!(found == expected);
    // What kernels without batches do finds the same.
    let mut found = BTreeMap::new();
    let mut visit = |key: &Key4, conn: &Conn| assert_eq!(found.insert(FlowKey::V4(*key), conn.into()), None);
    tables.raw_conns_v4().visit_each(&mut visit)?;
    found.extend(
        expected
            .range(FlowKey::V6(Key6::default())..)
            .map(|(key, conn)| (*key, *conn)),
    );
    ensure!(found == expected);

    let last = FlowKey::V4(key_v4(4095));
    ensure!(tables.take_conn(&last)? == expected.remove(&last));
    ensure!(tables.take_conn(&last)?.is_none());
    let in_two = tables
        .raw_conns_v4()
        .take_in_two(&key_v4(4094))?
        .as_ref()
        .map(ConnState::from);
    ensure!(in_two == expected.remove(&FlowKey::V4(key_v4(4094))));
    ensure!(tables.raw_conns_v4().take_in_two(&key_v4(4094))?.is_none());
    for (key, conn) in &expected {
        ensure!(tables.take_conn(key)? == Some(*conn));
    }
    tables.conns(&mut |key, _| panic!("{key:?} is left"))?;

    // Slot 1 had 1,366 of 4,096 (the one taken in two is not counted) and 4 of 10.
    let removed = [1, 2, 3].map(|slot| tables.usage(slot).map(|usage| usage.conns.wrapping_neg()));
    let removed: Vec<_> = removed.into_iter().collect::<Result<_, _>>()?;
    ensure!(removed == [1366 + 4, 1365 + 3, 1364 + 3], "{removed:?}");
    Ok(())
}

#[test]
fn denials_are_read_and_taken_whole() -> Result<()> {
    let mut tables = KernelTables::new(&Object::load(&SMALL)?)?;
    let denial = Denial::from([3, 180, 0, 0]);
    let state = DenialState {
        totals: Count { packets: 3, bytes: 180 },
        ..DenialState::default()
    };
    let v4 = Key4 {
        tail: denial_tail(5, 6, Direction::Ingress, 1),
        ..key_v4(1)
    };
    let v6 = Key6 {
        tail: denial_tail(6, 17, Direction::Egress, 2),
        ..key_v6(1)
    };
    tables.raw_denials_v4().put(&v4, &denial)?;
    tables.raw_denials_v6().put(&v6, &denial)?;

    let mut found = BTreeMap::new();
    tables.denials(&mut |key, denial| assert_eq!(found.insert(key, denial), None))?;
    ensure!(found == BTreeMap::from([(FlowKey::V4(v4), state), (FlowKey::V6(v6), state)]));
    for (key, slot) in [(FlowKey::V4(v4), 5), (FlowKey::V6(v6), 6)] {
        ensure!(tables.take_denial(&key)? == Some(state));
        ensure!(tables.take_denial(&key)?.is_none());
        let used = UsageState {
            denials: 1_u64.wrapping_neg(),
            ..UsageState::default()
        };
        ensure!(tables.usage(slot)? == used);
    }
    ensure!(tables.usage(64).unwrap_err().to_string() == "there is no slot 64");

    let image = Object::load(&SMALL)?;
    let mut tables = KernelTables::new(&image)?;
    tables.set_window(0x0102_0304)?;
    ensure!(image.image()?[CONTROL_WINDOW as usize / 8].load(Relaxed) == 0x0102_0304);
    Ok(())
}

#[test]
fn a_grace_period_ends_both_ways() -> Result<()> {
    raw::wait_grace_period()?;
    raw::wait_grace_period_by_map()?;
    Ok(())
}

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

async fn next(watch: &mut LinkWatch) -> Result<LinkEvent> {
    Ok(tokio::time::timeout(Duration::from_secs(10), watch.next()).await??)
}

#[test]
fn a_watch_sees_links_come_change_their_name_and_go() -> Result<()> {
    sandbox(async || {
        ip("link add first type veth peer name first-peer")?;
        let netlink = Netlink::open()?;
        let mut watch = LinkWatch::new()?;
        let mut names = BTreeSet::new();
        for _ in 0..3 {
            match next(&mut watch).await? {
                LinkEvent::Present { name, .. } => names.insert(name),
                gone @ LinkEvent::Gone { .. } => bail!("{gone:?}"),
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
        };
        let gone = |name: &str, ifindex| LinkEvent::Gone {
            name: name.to_owned(),
            ifindex,
        };
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(next(&mut watch).await?);
        }
        let of_second = [present("second", second.ifindex), gone("second", second.ifindex)];
        let of_peer = [
            present("second-peer", peer.ifindex),
            gone("second-peer", peer.ifindex),
            present("renamed", peer.ifindex),
            gone("renamed", peer.ifindex),
        ];
        let of = |names: &[&str]| -> Vec<_> {
            let named = |event: &&LinkEvent| match event {
                LinkEvent::Present { name, .. } | LinkEvent::Gone { name, .. } => names.contains(&&**name),
            };
            seen.iter().filter(named).cloned().collect()
        };
        ensure!(of(&["second"]) == of_second, "{seen:?}");
        ensure!(of(&["second-peer", "renamed"]) == of_peer, "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_watch_that_was_overrun_reads_all_links_again() -> Result<()> {
    sandbox(async || {
        let mut watch = LinkWatch::new()?;
        let LinkEvent::Present { .. } = next(&mut watch).await? else {
            bail!("`lo` is there");
        };
        // Nobody reads meanwhile: the socket has room for some hundred messages.
        let mut batch = String::from("link add early type bridge\n");
        for number in 0..1000 {
            writeln!(batch, "link set lo alias {number}")?;
        }
        batch += "link add late type bridge\nlink del early\n";
        ip_batch(&batch)?;
        loop {
            if matches!(next(&mut watch).await?, LinkEvent::Present { name, .. } if name == "late") {
                break;
            }
        }
        // What is gone went before, or was never seen.
        let more = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
        ensure!(more.is_err(), "{more:?}");
        Ok(())
    })
}

/// A veth pair between this namespace and another one, both ends up, with an address on each.
async fn veth_pair() -> Result<Link> {
    ip("netns add task")?;
    ip("link add host type veth peer name eth0 netns task")?;
    ip("addr add 10.0.0.1/24 dev host")?;
    ip("-n task addr add 10.0.0.2/24 dev eth0")?;
    ip("link set host up")?;
    ip("-n task link set eth0 up")?;
    Ok(Netlink::open()?.link("host").await?)
}

/// A socket in the task's namespace, where no packet may wait for longer than that.
fn task_socket(port: u16) -> Result<UdpSocket> {
    let namespace = File::open("/run/netns/task")?;
    let bind = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        anyhow::Ok(UdpSocket::bind(("10.0.0.2", port))?)
    };
    let socket = thread::scope(|scope| scope.spawn(bind).join().expect("no panic in there"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// Whether a datagram of the host's reaches the task.
fn reaches_task() -> Result<bool> {
    let socket = task_socket(9)?;
    UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", "10.0.0.2:9")?;
    Ok(socket.recv(&mut [0; 8]).is_ok())
}

/// What `tc` and the like would show: how many filters hang on the link.
fn filters(way: &str) -> Result<usize> {
    let output = std::process::Command::new("tc")
        .args(["filter", "show", "dev", "host", way])
        .output()?;
    let output = String::from_utf8(output.stdout)?;
    Ok(output.lines().filter(|line| line.contains("handle 0x7467")).count())
}

#[test]
fn a_gate_stands_until_it_is_taken_off_or_its_link_goes() -> Result<()> {
    let mut object = Object::load(&SMALL)?;
    for hook in [Hook::Tcx, Hook::Clsact] {
        sandbox(async || {
            let link = veth_pair().await?;
            ensure!(reaches_task()?);
            let gate = object.attach_by(&link, hook)?;
            ensure!(gate.hook() == hook && gate.link() == &link && !gate.is_gone()?);
            // Nothing is configured, so nothing passes.
            ensure!(!reaches_task()?, "{hook:?}");
            gate.detach()?;
            ensure!(reaches_task()?);

            let gate = object.attach_by(&link, hook)?;
            drop(gate);
            ensure!(reaches_task()?);

            let gate = object.attach_by(&link, hook)?;
            ip("link del host")?;
            ensure!(gate.is_gone()?, "{hook:?}");
            gate.detach()?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_a_killed_run_left_on_a_link_is_replaced() -> Result<()> {
    sandbox(async || {
        let link = veth_pair().await?;
        let mut object = Object::load(&SMALL)?;
        std::mem::forget(object.attach_by(&link, Hook::Clsact)?);
        drop(object);
        ensure!((filters("ingress")?, filters("egress")?) == (1, 1));
        let mut object = Object::load(&SMALL)?;
        let gate = object.attach_by(&link, Hook::Clsact)?;
        ensure!((filters("ingress")?, filters("egress")?) == (1, 1));
        gate.detach()?;
        ensure!((filters("ingress")?, filters("egress")?) == (0, 0));
        ensure!(reaches_task()?);
        Ok(())
    })
}

#[test]
fn a_gate_never_stands_on_another_link_of_the_same_name() -> Result<()> {
    let mut object = Object::load(&SMALL)?;
    for hook in [Hook::Tcx, Hook::Clsact] {
        sandbox(async || {
            let link = veth_pair().await?;
            let other = Link {
                ifindex: link.ifindex + 1,
                ..link
            };
            let error = object.attach_by(&other, hook).unwrap_err();
            ensure!(error.to_string() == "link `host` was replaced by another one of that name: look it up again");
            ensure!(matches!(error, GateError::Replaced { .. }));
            ensure!(reaches_task()?);
            ip("link del host")?;
            let error = object.attach_by(&other, hook).unwrap_err();
            ensure!(matches!(error, GateError::Attach { .. }), "{error}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn each_way_has_its_own_program() -> Result<()> {
    for hook in [Hook::Tcx, Hook::Clsact] {
        sandbox(async || {
            // Nothing but the datagrams below is to cross the link.
            let link = veth_pair().await?;
            for (namespace, device) in [("", "host"), ("-n task ", "eth0")] {
                ip(&format!("{namespace}link set {device} down"))?;
                ip(&format!("{namespace}link set {device} arp off addrgenmode none"))?;
                ip(&format!("{namespace}link set {device} up"))?;
            }
            let mut object = Object::load(&SMALL)?;
            let tables = KernelTables::new(&object)?;
            let _gate = object.attach_by(&link, hook)?;
            let counts = || -> Result<_> {
                let unknown = Outcome::Drop(Reason::UnknownTask).number() as usize;
                let of = |direction| tables.counters(0, direction).map(|counts| counts[unknown]);
                Ok((of(Direction::Egress)?, of(Direction::Ingress)?))
            };
            ensure!(counts()? == (0, 0));
            UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", "10.0.0.2:9")?;
            ensure!(counts()? == (0, 1), "{hook:?} {:?}", counts()?);
            task_socket(0)?.send_to(b"hello", "10.0.0.1:9")?;
            ensure!(counts()? == (1, 1), "{hook:?} {:?}", counts()?);
            Ok(())
        })?;
    }
    Ok(())
}

struct Captured(Mutex<Sender<String>>);

impl log::Log for Captured {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("taskgate_gate") {
            let sender = self.0.lock().expect("nobody panics with it");
            sender.send(record.args().to_string()).expect("the test waits for it");
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_log_is_drained_where_it_is_on_and_costs_nothing_where_it_is_off() -> Result<()> {
    sandbox(async || {
        let mut silent = Object::load(&SMALL)?;
        ensure!(silent.log_drain()?.is_none());
        let mut object = Object::load(&LoadOptions {
            log_level: log::LevelFilter::Debug,
            ..SMALL
        })?;
        for (off, on) in silent
            .verified_instructions()?
            .into_iter()
            .zip(object.verified_instructions()?)
        {
            let gate = off.0 == program::FROM_TASK || off.0 == program::TO_TASK;
            ensure!(
                off.0 == on.0 && if gate { off.1 < on.1 } else { off.1 == on.1 },
                "{off:?} {on:?}"
            );
        }

        let (sender, messages) = channel();
        log::set_boxed_logger(Box::new(Captured(Mutex::new(sender))))?;
        log::set_max_level(log::LevelFilter::Debug);
        let drain = object.log_drain()?.context("the log is on")?;
        let ran = object.test_run(
            program::FROM_TASK,
            &Packet {
                frame: &[0; 60],
                ..Packet::default()
            },
            1,
        )?;
        // TC_ACT_SHOT.
        ensure!(ran.returned == 2);
        tokio::select! {
            () = drain => bail!("the drain never ends"),
            message = tokio::task::spawn_blocking(move || messages.recv_timeout(Duration::from_secs(10))) => {
                let message = message??;
                ensure!(message.starts_with("dropped on link "), "{message}");
            }
        }
        Ok(())
    })
}
