//! The loaded program, its tables, its clock and its log.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use taskgate_bpf::{
    load::LoadOptions,
    object::BpfObject,
    sys::{self, TestPacket},
    tables::KernelTables,
};
use taskgate_ebpf::abi::{
    Address, Charge, Charges, Conn, Denial, Direction, EniUsage, Fragment, Key4, Key6, LinkId,
    image::{BANK_BYTES, CONTROL_BANK, EPOCHS, ImageWord, POLICY_BANK, TIMEOUTS, Timeout},
    program,
    tables::{Admitted, Flags, FragmentL4, KeyTag, Seen, Totals, Word, state},
};
use taskgate_tables::{
    ConnState, DenialState, FlowCount, FlowKey, FlowTables as _, UsageState,
    image::{ImageControl, ImageView},
};
use testkit::{kernel::tells_verified, sandbox::sandbox};

use crate::SMALL;

#[test]
fn a_loaded_program_has_the_sizes_asked_for() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let image = object.image()?;
    ensure!(image.len() == (POLICY_BANK as usize + 1) * BANK_BYTES as usize / 8);
    ensure!(image.iter().all(|word| word.load(Relaxed) == 0));
    ensure!(object.usage()?.len() == 64 * size_of::<EniUsage>() / 8);
    let tables = KernelTables::new(&object)?;
    let (conns, denials) = (tables.raw_conns(), tables.raw_denials());
    let ways = [conns.0.ways(), conns.1.ways(), denials.0.ways(), denials.1.ways()];
    // 55 % of them are 4,096 and 1,024, in whole pairs of buckets.
    ensure!(ways == [7456, 7456, 1872, 1872], "{ways:?}");

    let verified: Vec<_> = object.verified_instructions()?;
    let names: Vec<_> = verified.iter().map(|(name, _)| *name).collect();
    ensure!(names == BpfObject::PROGRAMS);
    let told = tells_verified()?;
    ensure!(
        verified
            .iter()
            .all(|(_, count)| count.is_some_and(|count| count > 0) == told)
    );
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
        assert_eq!(BpfObject::load(&options).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_clock_goes_at_the_rate_it_says() -> Result<()> {
    let mut tables = KernelTables::new(&BpfObject::load(&SMALL)?)?;
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
    Conn {
        packets: [number.into(), 0.into()],
        bytes: [0.into(), (u64::from(number) << 40).into()],
        admitted: admitted_by(1 + (number % 3) as u16),
        by: Conn::pack_by(number, 0).into(),
        ..Conn::default()
    }
}

fn admitted_by(slot: u16) -> Word {
    let admitted = Admitted {
        slot,
        ..Admitted::default()
    };
    admitted.pack().into()
}

fn key_v4(number: u32) -> Key4 {
    Key4 {
        addresses: 0x0a00_0001_0a00_0000 | u64::from(number),
        ports: number * 65_536 + 443,
        tag: KeyTag::of_conn(LinkId::device(7), 6),
    }
}

fn key_v6(number: u32) -> Key6 {
    Key6 {
        local: Address::new(0xfd00 << 48, number.into()),
        ..Key6::default()
    }
}

#[test]
fn connections_are_read_and_taken_whole() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    let mut expected = BTreeMap::new();
    for number in 0..4096 {
        let put = tables.raw_conns().0.put(object.seed(), &key_v4(number), &conn(number));
        ensure!(put.is_some(), "no room for {number}");
        expected.insert(FlowKey::V4(key_v4(number)), ConnState::from(&conn(number)));
    }
    for number in 0..10 {
        let put = tables.raw_conns().1.put(object.seed(), &key_v6(number), &conn(number));
        ensure!(put.is_some(), "no room for {number}");
        expected.insert(FlowKey::V6(key_v6(number)), ConnState::from(&conn(number)));
    }

    let mut found = BTreeMap::new();
    let mut ids = BTreeMap::new();
    tables.conns(&mut |conn| {
        assert_eq!(found.insert(conn.key, conn.state), None);
        assert_eq!(ids.insert(conn.id, conn.key), None);
    })?;
    ensure!(found == expected);

    let all: Vec<_> = ids.keys().copied().collect();
    let (kept, marked) = all.split_at(1);
    ensure!(tables.freeze_conn(kept[0])?.is_none(), "it was not marked");
    tables.mark_conns(marked)?;
    let whose = |id| -> Result<_> {
        let key = *ids.get(&id).context("it was read")?;
        Ok(Some((key, expected[&key])))
    };
    // Marked entries are read like all others, and can be kept.
    let mut read = 0;
    tables.conns(&mut |_| read += 1)?;
    ensure!(read == all.len());
    let (back, gone) = marked.split_at(1);
    let there = tables.marked_conn(back[0]).map(|conn| (conn.key, conn.state));
    ensure!(there == whose(back[0])?);
    tables.keep_conn(back[0]);
    ensure!(tables.marked_conn(back[0]).is_none() && tables.freeze_conn(back[0])?.is_none());
    for id in gone {
        ensure!(tables.freeze_conn(*id)? == whose(*id)?);
        ensure!(tables.freeze_conn(*id)?.is_none() && tables.marked_conn(*id).is_none());
    }
    // A frozen entry cannot be looked up, and stays until it is freed.
    let mut frozen = BTreeMap::new();
    tables.frozen_conns(&mut |id, key, state| assert_eq!(frozen.insert(id, (key, state)), None))?;
    ensure!(frozen.len() == gone.len());
    for id in gone {
        ensure!(frozen.remove(id) == whose(*id)?);
        tables.free_conn(*id)?;
        tables.free_conn(*id)?;
    }
    tables.frozen_conns(&mut |_, key, _| panic!("{key:?} is frozen"))?;
    let mut left = Vec::new();
    tables.conns(&mut |conn| left.push(conn.id))?;
    ensure!(left == [kept[0], back[0]]);
    tables.mark_conns(&left)?;
    for id in left {
        ensure!(tables.freeze_conn(id)? == whose(id)?);
        tables.free_conn(id)?;
    }
    tables.conns(&mut |conn| panic!("{conn:?} is left"))?;

    // Slot 1 had 1,366 of 4,096 and 4 of 10.
    let usage = object.usage()?;
    let removed = [1, 2, 3].map(|slot| floor(&usage, slot, offset_of!(EniUsage, conns_removed)));
    ensure!(removed == [1366 + 4, 1365 + 3, 1365 + 3], "{removed:?}");
    Ok(())
}

/// Entries keep the low half of a generation's number, which comes round.
#[test]
fn a_connection_of_long_ago_never_becomes_one_of_this_generation() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    ImageControl::new(object.image()?).set_generation(0x1_0005);
    for (number, generation) in [(1, 0x0005), (2, 0xfff0), (3, 0x8006), (4, 0x8004), (5, 0x0006)] {
        let admitted = Admitted {
            epoch: 9,
            code: 8,
            generation,
            slot: 7,
        };
        let conn = Conn {
            admitted: admitted.pack().into(),
            ..Conn::default()
        };
        tables.raw_conns().0.put(object.seed(), &key_v4(number), &conn);
        tables.raw_conns().1.put(object.seed(), &key_v6(number), &conn);
    }
    tables.conns(&mut |_| {})?;
    let mut found = BTreeMap::new();
    tables.conns(&mut |conn| {
        found.insert(conn.key, conn.state);
    })?;
    for (number, generation) in [(1, 0x0005), (2, 0xfff0), (3, 0x8006), (4, 0x0004), (5, 0x0004)] {
        for key in [FlowKey::V4(key_v4(number)), FlowKey::V6(key_v6(number))] {
            let conn = found[&key];
            ensure!((conn.epoch, conn.slot) == (9, 7), "{conn:?}");
            ensure!(conn.generation == generation, "{number}: {conn:?}");
        }
    }
    Ok(())
}

/// An entry has the low bits of the epoch in which it was admitted.
#[test]
fn a_connection_of_another_epoch_is_read_as_outdated() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    let words = object.image()?;
    ImageView(&words).publish(CONTROL_BANK, EPOCHS.at(7), u64::from(Admitted::EPOCHS) + 9);
    for (number, slot, epoch) in [(1, 7, 9), (2, 7, 8), (3, 6, 0), (4, 6, 9)] {
        let admitted = Admitted {
            epoch,
            slot,
            ..Admitted::default()
        };
        let conn = Conn {
            admitted: admitted.pack().into(),
            ..Conn::default()
        };
        tables.raw_conns().0.put(object.seed(), &key_v4(number), &conn);
    }
    let mut found = BTreeMap::new();
    tables.conns(&mut |conn| {
        found.insert(conn.key, conn.outdated);
    })?;
    let expected = [(1, false), (2, true), (3, false), (4, true)];
    ensure!(
        found
            == expected
                .map(|(number, outdated)| (FlowKey::V4(key_v4(number)), outdated))
                .into()
    );
    Ok(())
}

#[test]
fn denials_are_read_and_taken_whole() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    let denial = Denial::new(Totals::new(3, 180), 0, Flags::default(), 0);
    let state = DenialState {
        totals: FlowCount { packets: 3, bytes: 180 },
        windows: denial.flags.windows(),
        ..DenialState::default()
    };
    let v4 = Key4 {
        tag: KeyTag::of_denial(5, 6, Direction::Ingress, 1),
        ..key_v4(1)
    };
    let v6 = Key6 {
        tag: KeyTag::of_denial(6, 17, Direction::Egress, 2),
        ..key_v6(1)
    };
    let (denials, seed) = (tables.raw_denials(), object.seed());
    ensure!(denials.0.put(seed, &v4, &denial).is_some() && denials.1.put(seed, &v6, &denial).is_some());

    let mut found = BTreeMap::new();
    tables.denials(&mut |id, key, denial| assert_eq!(found.insert(key, (id, denial)), None))?;
    for (key, slot) in [(FlowKey::V4(v4), 5), (FlowKey::V6(v6), 6)] {
        let (id, there) = found.remove(&key).context("it was put there")?;
        ensure!(there == state, "{there:?}");
        ensure!(tables.freeze_denial(id)?.is_none(), "it was not marked");
        tables.mark_denials(&[id])?;
        ensure!(tables.freeze_denial(id)? == Some((key, state)));
        ensure!(tables.freeze_denial(id)?.is_none());
        let mut frozen = Vec::new();
        tables.frozen_denials(&mut |id, key, state| frozen.push((id, key, state)))?;
        ensure!(frozen == [(id, key, state)]);
        tables.free_denial(id)?;
        tables.free_denial(id)?;
        tables.frozen_denials(&mut |_, key, _| panic!("{key:?} is frozen"))?;
        ensure!(floor(&object.usage()?, slot, offset_of!(EniUsage, denials_removed)) == 1);
        // Removals without inserts are not negative.
        ensure!(tables.usage(slot)? == UsageState::default());
    }
    ensure!(tables.usage(64).unwrap_err().to_string() == "there is no slot 64");

    let image = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&image)?;
    tables.set_window(0x0102_0304)?;
    let words = image.image()?;
    ensure!(ImageView(&words).get(CONTROL_BANK, ImageWord::Window.offset()) == 0x0102_0304);
    Ok(())
}

/// Entries given back to a slot's floor; `removed`: the offset of the table's counts.
fn floor(usage: &[AtomicU64], slot: u16, removed: usize) -> u64 {
    let word = usize::from(slot) * size_of::<EniUsage>() + removed + Charges::offset(Charge::FLOOR);
    usage[word / 8].load(Relaxed)
}

/// Charges to the pool are returned to it, for the slot and for the total.
#[test]
fn a_removed_entry_is_given_back_to_the_account_that_paid() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    let usage = object.usage()?;
    let of = |state| Conn {
        admitted: admitted_by(7),
        by: Conn::pack_by(0, state).into(),
        ..Conn::default()
    };
    let given_back = |removed: usize| -> Vec<u64> {
        let word =
            |slot: usize, account: usize| usage[(slot * size_of::<EniUsage>() + removed + account) / 8].load(Relaxed);
        let (floor, pool) = (Charges::offset(Charge::FLOOR), Charges::offset(Charge::POOL));
        vec![word(7, floor), word(7, pool), word(0, floor), word(0, pool)]
    };
    for (number, state) in [(1, state::POOL), (2, 0)] {
        tables.raw_conns().0.put(object.seed(), &key_v4(number), &of(state));
    }
    let mut ids = Vec::new();
    tables.conns(&mut |conn| ids.push(conn.id))?;
    tables.mark_conns(&ids)?;
    ensure!(ids.len() == 2);
    for id in ids {
        ensure!(tables.freeze_conn(id)?.is_some());
        tables.free_conn(id)?;
    }
    ensure!(given_back(offset_of!(EniUsage, conns_removed)) == [1, 1, 0, 1]);
    let denied = |charge: Charge| Denial::new(Totals::default(), 0, Flags::default(), charge.number());
    let key = |number| Key4 {
        tag: KeyTag::of_denial(7, 6, Direction::Ingress, 1),
        ..key_v4(number)
    };
    for (number, charge) in [(1, Charge::POOL), (2, Charge::FLOOR)] {
        tables.raw_denials().0.put(object.seed(), &key(number), &denied(charge));
    }
    let mut ids = Vec::new();
    tables.denials(&mut |id, _, _| ids.push(id))?;
    tables.mark_denials(&ids)?;
    ensure!(ids.len() == 2);
    for id in ids {
        ensure!(tables.freeze_denial(id)?.is_some());
        tables.free_denial(id)?;
    }
    ensure!(given_back(offset_of!(EniUsage, denials_removed)) == [1, 1, 0, 1]);
    let first = |charge| Fragment::new(Seen::default(), l4(7, charge), 1);
    let (v4, _) = tables.raw_fragments();
    v4.update(&key_v4(1), &first(Charge::POOL))?;
    v4.update(&key_v4(2), &first(Charge::FLOOR))?;
    tables.forget_fragments(&[0; TIMEOUTS])?;
    ensure!(given_back(offset_of!(EniUsage, fragments_removed)) == [1, 1, 0, 1]);
    Ok(())
}

/// A first fragment's values for a slot.
fn l4(slot: u16, charge: Charge) -> FragmentL4 {
    FragmentL4 {
        slot,
        charge,
        ..FragmentL4::of(0)
    }
}

#[test]
fn fragments_are_forgotten_when_their_family_says_so() -> Result<()> {
    let object = BpfObject::load(&SMALL)?;
    let mut tables = KernelTables::new(&object)?;
    let now = tables.now()?;
    let first = |age: u32, slot| {
        Fragment::new(
            Seen::new(now.wrapping_sub(age), KeyTag::default()),
            l4(slot, Charge::FLOOR),
            0,
        )
    };
    let mut timeouts = [0; TIMEOUTS];
    timeouts[Timeout::FragmentV4 as usize] = 3_000_000;
    timeouts[Timeout::FragmentV6 as usize] = 6_000_000;
    let (v4, v6) = tables.raw_fragments();
    for (number, age) in [(0, 1_000_000), (1, 4_000_000), (2, 7_000_000)] {
        v4.update(&key_v4(number), &first(age, 3))?;
        v6.update(&key_v6(number), &first(age, 4))?;
    }
    tables.forget_fragments(&timeouts)?;
    let (v4, v6) = tables.raw_fragments();
    for (number, kept_v4, kept_v6) in [(0, true, true), (1, false, true), (2, false, false)] {
        ensure!(v4.get(&key_v4(number))?.is_some() == kept_v4, "IPv4 {number}");
        ensure!(v6.get(&key_v6(number))?.is_some() == kept_v6, "IPv6 {number}");
    }
    let usage = object.usage()?;
    let removed = [3, 4].map(|slot| floor(&usage, slot, offset_of!(EniUsage, fragments_removed)));
    ensure!(removed == [2, 1], "{removed:?}");
    Ok(())
}

#[test]
fn a_grace_period_ends_both_ways() -> Result<()> {
    sys::wait_grace_period()?;
    sys::wait_grace_period_by_map()?;
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
        let mut silent = BpfObject::load(&SMALL)?;
        ensure!(silent.log_drain()?.is_none());
        let mut object = BpfObject::load(&LoadOptions {
            log_level: log::LevelFilter::Debug,
            ..SMALL
        })?;
        let told = tells_verified()?;
        for (off, on) in silent
            .verified_instructions()?
            .into_iter()
            .zip(object.verified_instructions()?)
        {
            let gate = off.0 == program::FROM_TASK || off.0 == program::TO_TASK;
            ensure!(
                off.0 == on.0 && if gate && told { off.1 < on.1 } else { off.1 == on.1 },
                "{off:?} {on:?}"
            );
        }

        let (sender, messages) = channel();
        log::set_boxed_logger(Box::new(Captured(Mutex::new(sender))))?;
        log::set_max_level(log::LevelFilter::Debug);
        let drain = object.log_drain()?.context("the log is on")?;
        let ran = object.test_run(
            program::FROM_TASK,
            &TestPacket {
                frame: &[0; 60],
                ..TestPacket::default()
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
