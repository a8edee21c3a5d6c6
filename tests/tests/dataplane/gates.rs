//! Gates attached and detached, with TCX and with clsact.

use std::{fs::File, net::UdpSocket, process::Command, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use taskgate_bpf::{
    gate::{AttachKind, GateError, GateProgram, Place},
    load::LoadOptions,
    object::BpfObject,
    other_gates::is_gated,
    sk_buff::Sight,
    tables::KernelTables,
};
use taskgate_ebpf::abi::{Direction, DropReason, Outcome};
use taskgate_net::{
    link::Link,
    netlink::Netlink,
    watch::{LinkEvent, LinkWatch},
};
use testkit::{
    kernel::{hooks, version},
    netns::until,
    sandbox::{ip, sandbox},
};

use crate::SMALL;

/// A veth pair between this namespace and a new one, both ends up, with an address on each.
async fn veth_pair() -> Result<Link> {
    ip("netns add task")?;
    connect().await
}

async fn connect() -> Result<Link> {
    ip(
        "link add host index 77 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns task",
    )?;
    ip("addr add 10.0.0.1/24 dev host")?;
    ip("-n task addr add 10.0.0.2/24 dev eth0")?;
    ip("link set host up")?;
    ip("-n task link set eth0 up")?;
    // Neighbour entries are static: no address has to be resolved once a gate is detached.
    ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev host")?;
    ip("-n task neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0")?;
    Ok(Netlink::open()?.link("host").await?)
}

/// A socket in the task's namespace, where no packet may wait for longer than that.
fn task_socket() -> Result<UdpSocket> {
    let namespace = File::open("/run/netns/task")?;
    let bind = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        anyhow::Ok(UdpSocket::bind("10.0.0.2:0")?)
    };
    let socket = thread::scope(|scope| scope.spawn(bind).join().expect("no panic in there"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// Whether a datagram of the host's reaches the task.
fn reaches_task() -> Result<bool> {
    // Any free port: a child that another test forks may still hold the previous socket.
    let socket = task_socket()?;
    UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", socket.local_addr()?)?;
    Ok(socket.recv(&mut [0; 8]).is_ok())
}

/// The number of filters on the link, as `tc` shows them.
fn filters(way: &str) -> Result<usize> {
    let output = Command::new("tc")
        .args(["filter", "show", "dev", "host", way])
        .output()?;
    let output = String::from_utf8(output.stdout)?;
    Ok(output.lines().filter(|line| line.contains("handle 0x7467")).count())
}

#[test]
fn tcx_is_used_from_6_6_on() -> Result<()> {
    let expected = if version()? >= (6, 6) {
        AttachKind::Tcx
    } else {
        AttachKind::Clsact
    };
    ensure!(hooks().first() == Some(&expected), "{:?}", hooks());
    let object = BpfObject::load(&SMALL)?;
    sandbox(async || {
        ensure!(object.attach(&veth_pair().await?)?.hook() == expected);
        Ok(())
    })
}

#[test]
fn a_gate_stands_until_it_is_taken_off_or_its_link_goes() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    for hook in hooks() {
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
fn a_link_that_has_a_gate_keeps_it_for_the_next_owner() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    for hook in hooks() {
        sandbox(async || {
            let link = veth_pair().await?;
            let first = object.attach_by(&link, hook)?;
            let second = object.attach_by(&link, hook)?;
            ensure!(first.link() == second.link());
            drop(first);
            ensure!(!second.is_gone()? && !reaches_task()?, "{hook:?}");
            let third = object.attach_by(&link, hook)?;
            second.detach()?;
            ensure!(!reaches_task()?, "{hook:?}");
            third.detach()?;
            ensure!(reaches_task()?, "{hook:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_link_that_took_the_number_of_another_has_no_gate_before_it_gets_one() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    for hook in hooks() {
        sandbox(async || {
            let link = veth_pair().await?;
            let first = object.attach_by(&link, hook)?;
            ip("link del host")?;
            let link = connect().await?;
            ensure!(reaches_task()?, "{hook:?}");
            // The owner of the first gate need not know yet that its link went.
            let second = object.attach_by(&link, hook)?;
            ensure!(!reaches_task()?, "{hook:?}");
            drop(first);
            ensure!(!reaches_task()?, "{hook:?}");
            drop(second);
            ensure!(reaches_task()?, "{hook:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_a_killed_run_left_on_a_link_is_replaced() -> Result<()> {
    sandbox(async || {
        let link = veth_pair().await?;
        let object = BpfObject::load(&SMALL)?;
        std::mem::forget(object.attach_by(&link, AttachKind::Clsact)?);
        drop(object);
        ensure!((filters("ingress")?, filters("egress")?) == (1, 1));
        let object = BpfObject::load(&SMALL)?;
        let gate = object.attach_by(&link, AttachKind::Clsact)?;
        ensure!((filters("ingress")?, filters("egress")?) == (1, 1));
        gate.detach()?;
        ensure!((filters("ingress")?, filters("egress")?) == (0, 0));
        ensure!(reaches_task()?);
        Ok(())
    })
}

#[test]
fn each_instance_has_a_gate_of_its_own_on_a_link() -> Result<()> {
    for hook in hooks() {
        sandbox(async || {
            let link = veth_pair().await?;
            let instance = |instance| BpfObject::load(&LoadOptions { instance, ..SMALL });
            let (one, two) = (instance(1)?, instance(2)?);
            ensure!(!is_gated("host"));
            let first = one.attach_by(&link, hook)?;
            let second = two.attach_by(&link, hook)?;
            ensure!(is_gated("host") && !reaches_task()?, "{hook:?}");
            second.detach()?;
            ensure!(is_gated("host") && !reaches_task()?, "{hook:?}");
            ensure!(!first.is_gone()?, "{hook:?}");
            if hook == AttachKind::Clsact {
                // Filters left by a killed run belong to its instance only.
                std::mem::forget(two.attach_by(&link, hook)?);
                drop(two);
                first.detach()?;
                ensure!(is_gated("host"));
                instance(2)?.attach_by(&link, hook)?.detach()?;
            } else {
                first.detach()?;
            }
            ensure!(!is_gated("host") && reaches_task()?, "{hook:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_gate_never_stands_on_another_link_of_the_same_name() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    for hook in hooks() {
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
fn a_link_that_the_tables_cannot_name_gets_no_gate() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    sandbox(async || {
        ip("link add last index 8388607 type veth peer name a")?;
        ip("link add beyond index 8388608 type veth peer name b")?;
        let netlink = Netlink::open()?;
        object.attach(&netlink.link("last").await?)?;
        let error = object.attach(&netlink.link("beyond").await?).unwrap_err();
        ensure!(
            error.to_string()
                == "link `beyond` has ifindex 8388608, and a gate works below 8388608: links made in a new network namespace count from 1 again"
        );
        Ok(())
    })
}

#[test]
fn each_way_has_its_own_program() -> Result<()> {
    for hook in hooks() {
        sandbox(async || {
            // Nothing but the datagrams below is to cross the link.
            let link = veth_pair().await?;
            for (namespace, device) in [("", "host"), ("-n task ", "eth0")] {
                ip(&format!("{namespace}link set {device} down"))?;
                ip(&format!("{namespace}link set {device} arp off addrgenmode none"))?;
                ip(&format!("{namespace}link set {device} up"))?;
            }
            // Until then the kernel drops packets.
            for (namespace, device) in [("", "host"), ("-n task ", "eth0")] {
                until("both ends carry packets", || {
                    Ok(ip(&format!("{namespace}-oneline link show {device}"))?.contains("state UP"))
                })?;
            }
            let object = BpfObject::load(&SMALL)?;
            let tables = KernelTables::new(&object)?;
            let _gate = object.attach_by(&link, hook)?;
            let counts = || -> Result<_> {
                let unknown = Outcome::Drop(DropReason::UnknownTask).number() as usize;
                let of = |direction| tables.counters(0, direction).map(|counts| counts[unknown]);
                Ok((of(Direction::Egress)?, of(Direction::Ingress)?))
            };
            ensure!(counts()? == (0, 0));
            UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", "10.0.0.2:9")?;
            ensure!(counts()? == (0, 1), "{hook:?} {:?}", counts()?);
            task_socket()?.send_to(b"hello", "10.0.0.1:9")?;
            ensure!(counts()? == (1, 1), "{hook:?} {:?}", counts()?);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_gate_tells_a_link_that_moved_from_one_that_went() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    sandbox(async || {
        if !hooks().contains(&AttachKind::Tcx) {
            return Ok(());
        }
        let link = veth_pair().await?;
        ip("netns add other")?;
        let gate = object.attach_by(&link, AttachKind::Tcx)?;
        ensure!(gate.place()? == Place::Here);
        ip("link set host netns other")?;
        ensure!(gate.place()? == Place::Elsewhere && gate.is_gone()?);
        // Its ifindex belongs to another link in this namespace now. That link has no gate.
        ip("link add host index 77 type veth peer name more")?;
        ensure!(gate.place()? == Place::Elsewhere && !gate.is_on(77));
        let second = object.attach_by(&link, AttachKind::Tcx)?;
        ensure!(second.place()? == Place::Here && gate.place()? == Place::Elsewhere);
        gate.set(GateProgram::DropAll)?;
        ip("-n other link del host")?;
        // The link that has the number now has nothing of the first gate.
        ensure!(gate.place()? == Place::Bare && second.place()? == Place::Here);
        ip("link del host")?;
        ensure!(gate.place()? == Place::Gone && second.place()? == Place::Gone);
        Ok(())
    })
}

#[test]
fn a_gate_gets_another_program_and_drops_everything() -> Result<()> {
    for hook in hooks() {
        sandbox(async || {
            let link = veth_pair().await?;
            let object = BpfObject::load(&SMALL)?;
            let tables = KernelTables::new(&object)?;
            let gate = object.attach_by(&link, hook)?;
            let judged = || -> Result<u64> {
                let unknown = Outcome::Drop(DropReason::UnknownTask).number() as usize;
                Ok(tables.counters(0, Direction::Ingress)?[unknown])
            };
            ensure!(!reaches_task()? && judged()? != 0, "{hook:?}");
            let before = judged()?;
            gate.set(GateProgram::DropAll)?;
            ensure!(!reaches_task()? && judged()? == before, "{hook:?}");
            gate.set(GateProgram::Judge)?;
            ensure!(!reaches_task()? && judged()? > before, "{hook:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_cover_closes_both_sides_until_it_is_lifted() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let programs = object.gate_programs();
    sandbox(async || {
        let link = veth_pair().await?;
        ensure!(reaches_task()?);
        let reaches_host = || -> Result<bool> {
            let host = UdpSocket::bind("10.0.0.1:0")?;
            host.set_read_timeout(Some(Duration::from_millis(200)))?;
            task_socket()?.send_to(b"hello", host.local_addr()?)?;
            Ok(host.recv(&mut [0; 8]).is_ok())
        };
        ensure!(reaches_host()?);
        let cover = programs.cover(link.ifindex)?;
        ensure!(!reaches_task()? && !reaches_host()?);
        drop(cover);
        ensure!(reaches_task()? && reaches_host()?);
        // The cover leaves no qdisc behind.
        ensure!(!qdisc("host")?.contains("clsact"));
        Ok(())
    })
}

fn qdisc(link: &str) -> Result<String> {
    let output = Command::new("tc").args(["qdisc", "show", "dev", link]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// tc filters are lost when the link moves, so the link is open in its new namespace.
#[test]
fn a_link_that_lost_its_filters_is_closed_where_it_is() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let programs = object.gate_programs();
    sandbox(async || {
        let link = veth_pair().await?;
        ip("netns add other")?;
        let gate = object.attach_by(&link, AttachKind::Clsact)?;
        let mut watch = LinkWatch::new()?;
        while watch.next(Duration::from_millis(50))?.is_some() {}
        ip("link set host netns other")?;
        ensure!(gate.is_gone()?);
        let Some(LinkEvent::Gone { moved: Some(moved), .. }) = watch.next(Duration::from_secs(10))? else {
            bail!("the kernel says where a link moves, from Linux 4.16 on");
        };
        ip("-n other link set host up")?;
        ip("-n other addr add 10.0.0.1/24 dev host")?;
        ip("-n other neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev host")?;
        let reaches = || -> Result<bool> {
            let other = File::open("/run/netns/other")?;
            let socket = task_socket()?;
            let to = socket.local_addr()?;
            let send = || {
                setns(&other, CloneFlags::CLONE_NEWNET)?;
                anyhow::Ok(UdpSocket::bind("10.0.0.1:0")?.send_to(b"hello", to)?)
            };
            thread::scope(|scope| scope.spawn(send).join().expect("no panic in there"))?;
            Ok(socket.recv(&mut [0; 8]).is_ok())
        };
        until("it is open", reaches)?;
        programs.close_moved(moved)?;
        ensure!(!reaches()?);
        drop(gate);
        ensure!(!reaches()?);
        Ok(())
    })
}

/// The program reads the socket buffer behind its context as the kernel permits: by a cast, by copying, or not at all. It
/// loads in each case.
#[test]
fn a_program_loads_however_little_it_may_see() -> Result<()> {
    let mut before = None;
    for sight in [Sight::None, Sight::Copied, Sight::Cast] {
        let object = BpfObject::load(&LoadOptions { sight, ..SMALL })?;
        let seen = object.sight();
        ensure!(
            seen <= sight && Some(seen) >= before,
            "{seen:?} where it may be {sight:?}"
        );
        ensure!((seen == Sight::None) == object.unseen().is_some());
        before = Some(seen);
    }
    // Every kernel that this is tried on has BTF; the cast comes with 6.2.
    ensure!(before >= Some(Sight::Copied), "{before:?}");
    Ok(())
}
