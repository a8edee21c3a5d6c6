//! Successive generations: state that is kept, removed or deferred, and the state after a failure.

use std::rc::Rc;

use taskgate_ebpf::abi::image::{
    ADDRESS_ROWS, BANK_BYTES, EMPTY, ImageWord, LEAST_MEMBER_BANKS, LINK_ROWS, LINKS, MEMBER_BANK, MEMBERS, Region,
    SLOT_ROWS, TIMEOUT_TICKS, TOMBSTONE, Timeout, member_room, rows_bank,
};

use super::*;

/// One group that allows ingress TCP on `port`, and these ENIs, each with an address that ends in its id.
fn model(port: u16, enis: &[u8]) -> Model {
    Model {
        groups: vec![group("a", vec![rule("in", tcp(port, port), net("0.0.0.0/0"))], vec![])],
        enis: enis
            .iter()
            .map(|last| eni(&format!("eni-{last}"), &[&format!("10.0.0.{last}")], &[0]))
            .collect(),
        ..Model::default()
    }
}

/// The words of one bank.
fn bank(words: &[u64], bank: u32) -> &[u64] {
    &words[(bank * BANK_BYTES / 8) as usize..][..BANK_BYTES as usize / 8]
}

/// The words that packets may read in a generation: without the rows of the other parity, and without policies.
fn readable(words: &[u64], generation: u64) -> Vec<u64> {
    let mut words = words[..(image::POLICY_BANK * BANK_BYTES / 8) as usize].to_vec();
    let mut forget = |bank: u32, rows: Region| {
        let first = (bank * BANK_BYTES + rows.offset) as usize / 8;
        words[first..first + (rows.stride * rows.count) as usize / 8].fill(0);
    };
    let other = generation as u32 + 1;
    forget(rows_bank(other), LINK_ROWS);
    forget(rows_bank(other), SLOT_ROWS);
    forget(MEMBER_BANK + other % 2, ADDRESS_ROWS);
    words
}

/// The numbers of used words and of tombstones in a table.
fn table(words: &[u64], table: Region) -> (usize, usize) {
    let table = &words[table.offset as usize / 8..table.end() as usize / 8];
    let tombstones = table.iter().filter(|word| **word == TOMBSTONE).count();
    (
        table.iter().filter(|word| **word != EMPTY).count() - tombstones,
        tombstones,
    )
}

fn members(host: &Host) -> (usize, usize) {
    let words = host.words();
    let banks = [MEMBER_BANK, MEMBER_BANK + 1].map(|number| table(bank(&words, number), MEMBERS));
    (banks[0].0 + banks[1].0, banks[0].1 + banks[1].1)
}

fn links(host: &Host) -> (usize, usize) {
    table(&host.words(), LINKS)
}

const LINK: LinkId = LinkId::device(7);

#[test]
fn an_image_begins_empty_and_whole() {
    let error = |memory: Vec<AtomicU64>| ImageWriter::new(memory).unwrap_err().to_string();
    let not_an_image = "cannot use 10485760 bytes as an image: it takes at least 6 whole banks of 2097152";
    assert_eq!(error(host_image(5)), not_an_image);
    let mut odd = host_image(7);
    odd.pop();
    assert_eq!(error(odd), not_an_image.replace("10485760", "14680056"));
    let host = Host::new(1);
    let used: Vec<AtomicU64> = host.words().into_iter().map(AtomicU64::new).collect();
    assert_eq!(
        error(used),
        "cannot start an image in memory that holds one already; begin with an empty one"
    );

    host.writer.control().set_flags(5);
    host.writer.control().set_window(6);
    host.writer.control().set_timeout(Timeout::TcpEstablished, 7);
    host.writer.control().set_timeout(Timeout::Other, 8);
    let expected = [
        (ImageWord::Layout.offset(), image::IMAGE_LAYOUT),
        (ImageWord::Window.offset(), 6),
        (ImageWord::Flags.offset(), 5),
        (ImageWord::MemberBanks.offset(), 1),
        (TIMEOUT_TICKS.at(0), 7),
        (TIMEOUT_TICKS.at(6), 8),
    ];
    let words: Vec<(u32, u64)> = (0..)
        .step_by(8)
        .zip(host.words())
        .filter(|(_, word)| *word != 0)
        .collect();
    assert_eq!(words, expected);
}

#[test]
fn slots_addresses_and_equal_policies_stay_where_they_are() {
    let mut host = Host::new(1);
    assert_eq!(host.apply(&model(80, &[1, 2])), Ok(1));
    let before = host.reader().slot(2).unwrap();
    assert_eq!(host.apply(&model(80, &[3, 2])), Ok(2));
    assert_eq!(
        ["eni-1", "eni-2", "eni-3"].map(|eni| host.writer.slot(eni)),
        [Some(1), Some(2), Some(3)]
    );
    let reader = host.reader();
    assert_eq!(reader.slot(2), Some(before));
    assert_eq!(reader.slot(3).unwrap().roots, before.roots);
    assert_eq!(
        (reader.slot(1), reader.address(address("10.0.0.1"))),
        (None, AddressRow::default())
    );
    // A changed rule moves its own policy, and no other.
    assert_eq!(host.apply(&model(81, &[3, 2])), Ok(3));
    let after = host.reader().slot(2).unwrap();
    assert_eq!(after.roots[0], before.roots[0]);
    assert_ne!(after.roots[1].v4, before.roots[1].v4);
    assert_eq!(after.roots[1].v6, before.roots[1].v6);
}

#[test]
fn nothing_is_overwritten_before_the_grace_period() {
    let memory: Rc<[AtomicU64]> = host_image(6).into();
    let words = || -> Vec<u64> { memory.iter().map(|word| word.load(Ordering::Relaxed)).collect() };
    let mut host = Host::new(1);
    let mut writer = ImageWriter::new(Rc::clone(&memory)).unwrap();
    let compiled = [1_u8, 2, 3].map(|at| host.compile(&model(at.into(), &[at]), &[]).unwrap());
    // Before the first generation there is nothing to wait for.
    let _ = writer
        .prepare(&compiled[0], &mut || panic!("no need to wait"))
        .unwrap()
        .commit();
    for next in &compiled[1..] {
        let before = words();
        let mut waited = 0;
        let prepared = writer
            .prepare(next, &mut || {
                waited += 1;
                assert!(words() == before, "changed before the grace period");
            })
            .unwrap();
        assert_eq!(waited, 1);
        let generation = bank(&before, 0)[ImageWord::Generation.offset() as usize / 8];
        let rows = |words: &[u64]| {
            let parity = generation as u32;
            let current = rows_bank(parity);
            [
                (current, LINK_ROWS),
                (current, SLOT_ROWS),
                (MEMBER_BANK + parity % 2, ADDRESS_ROWS),
            ]
            .map(|(number, rows)| bank(words, number)[rows.offset as usize / 8..rows.end() as usize / 8].to_vec())
        };
        assert!(rows(&words()) == rows(&before), "the current rows changed");
        assert_eq!(prepared.commit(), generation + 1);
    }
    // One grace period is enough, whoever waits for it.
    let mut waited = 0;
    writer.synchronize(&mut || waited += 1);
    writer.synchronize(&mut || waited += 1);
    drop(writer.prepare(&compiled[0], &mut || waited += 1).unwrap());
    assert_eq!(waited, 1);
}

#[test]
fn what_is_not_committed_leaves_no_trace() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1, 2])).unwrap();
    host.writer.add_link(LINK, 1).unwrap();
    host.writer.synchronize(&mut || ());
    let before = host.words();
    let next = host.compile(&model(81, &[2, 3, 4]), &[address("192.0.2.1")]).unwrap();
    drop(host.writer.prepare(&next, &mut || ()).unwrap());
    let after = host.words();
    assert!(
        readable(&after, 1) == readable(&before, 1),
        "something that packets read changed"
    );
    assert_eq!(["eni-3", "eni-4"].map(|eni| host.writer.slot(eni)), [None; 2]);
    assert_eq!(host.reader().link(LINK).unwrap().slot, 1);
    // And the next attempt goes through.
    assert_eq!(host.switch(&next), Ok(2));
    assert_eq!(members(&host), (5, 0));
}

#[test]
fn an_image_without_room_is_refused_and_stands() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1])).unwrap();
    host.writer.synchronize(&mut || ());
    // Policies of 200 groups with 1,000 ports each: more than a bank.
    let rules = |at: u16| {
        (0..900).map(move |port| {
            rule(
                &format!("r/{port}"),
                tcp(port * 3 + at, port * 3 + at),
                net("10.0.0.0/8"),
            )
        })
    };
    let mut big = model(80, &[1, 2]);
    for at in 0..20 {
        big.groups.push(group(&format!("g{at}"), rules(at).collect(), vec![]));
        let last = at + 10;
        big.enis.push(eni(
            &format!("eni-x{at}"),
            &[&format!("10.0.0.{last}")],
            &[usize::from(at) + 1],
        ));
    }
    let before = host.words();
    let big = host.compile(&big, &[]).unwrap();
    assert!(big.policy_bytes() > BANK_BYTES as usize);
    let error = host.writer.prepare(&big, &mut || ()).unwrap_err();
    assert!(matches!(error, CompileError::PoliciesFull { .. }), "{error}");
    assert!(host.words() == before);
    assert_eq!(host.apply(&model(81, &[1])), Ok(2));

    // Too many addresses: the tables are as before.
    host.writer.synchronize(&mut || ());
    let before = host.words();
    let exempt: Vec<IpAddr> = (0..member_room(LEAST_MEMBER_BANKS))
        .map(|at| std::net::Ipv4Addr::from(0x0b00_0000 + at).into())
        .collect();
    let full = host.compile(&model(82, &[1]), &exempt).unwrap();
    let error = host.writer.prepare(&full, &mut || ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot bring 65537 addresses of group members and exempt hosts into an image with room for 65536: restart taskgate, \
         which takes its gates and connections over with a larger one"
    );
    let after = host.words();
    assert!(readable(&after, 2) == readable(&before, 2));
    // One less fits.
    let full = host.compile(&model(82, &[1]), &exempt[1..]).unwrap();
    assert_eq!(host.switch(&full), Ok(3));
    assert_eq!(members(&host).0, member_room(LEAST_MEMBER_BANKS) as usize);
}

#[test]
fn an_address_that_goes_leaves_its_word_for_one_more_generation() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1, 2])).unwrap();
    assert_eq!(members(&host), (2, 0));
    host.apply(&model(80, &[2])).unwrap();
    // Packets that began in the first generation may still read it; in the second one the row is absent.
    assert_eq!(members(&host), (2, 0));
    assert_eq!(host.reader().address(address("10.0.0.1")), AddressRow::default());
    // Added again before it was removed: the same row.
    host.apply(&model(80, &[1, 2])).unwrap();
    assert_eq!(
        (members(&host), host.reader().address(address("10.0.0.1")).slot),
        ((2, 0), 1)
    );
    host.apply(&model(80, &[2])).unwrap();
    host.apply(&model(80, &[2, 3])).unwrap();
    // No search path passes its word, so the word is cleared at once.
    assert_eq!(members(&host), (2, 0));
    assert_eq!(host.reader().address(address("10.0.0.1")), AddressRow::default());
}

#[test]
fn a_slot_is_given_again_only_when_nothing_tells_of_it() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1])).unwrap();
    host.writer.add_link(LINK, 1).unwrap();
    assert_eq!(
        (host.reader().link(LINK).unwrap().slot, host.writer.control().epoch(1)),
        (1, 0)
    );

    // The ENI is removed: its connections are old at once, and again once no packet is under way.
    host.apply(&model(80, &[2])).unwrap();
    assert_eq!((host.reader().link(LINK), host.writer.control().epoch(1)), (None, 1));
    host.writer.synchronize(&mut || ());
    assert_eq!(host.writer.control().epoch(1), 2);

    // While the link is bound to it, the slot stays the ENI's.
    host.apply(&model(80, &[2])).unwrap();
    host.apply(&model(80, &[2])).unwrap();
    assert_eq!(
        (host.writer.slot("eni-1"), host.writer.eni(1)),
        (Some(1), Some("eni-1"))
    );
    host.writer.remove_link(LINK);
    assert_eq!(
        (host.writer.slot("eni-1"), host.writer.control().epoch(1)),
        (Some(1), 3)
    );
    host.apply(&model(80, &[2])).unwrap();
    assert_eq!((host.writer.slot("eni-1"), host.writer.eni(1)), (None, None));
    assert_eq!(host.writer.control().epoch(1), 4);
    assert_eq!(
        [
            host.writer.add_link(LINK, 1),
            host.writer.bump_epoch(1),
            host.writer.add_link(LINK, 0)
        ],
        [1, 1, 0].map(|slot| Err(CompileError::UnknownSlot { slot }))
    );

    // An ENI that is added again has a new slot; freed slots are reused last.
    host.apply(&model(80, &[2, 1])).unwrap();
    assert_eq!(host.writer.slot("eni-1"), Some(3));
}

#[test]
fn isolating_an_eni_ends_its_connections() {
    let mut host = Host::new(1);
    let model = model(80, &[1, 2]);
    let mut switch = |isolated: bool| {
        let gate = |eni: &Eni| {
            Some(EniLimits {
                isolated: isolated && eni.id == "eni-1",
                ..NO_LIMITS
            })
        };
        let scope = CompileOptions {
            gate: &gate,
            exempt: &[],
            dhcp: false,
        };
        let compiled = Compiled::new(&model, scope, &mut host.rule_ids, &mut host.sets).unwrap();
        host.switch(&compiled).unwrap();
        host.writer.synchronize(&mut || ());
        [1, 2].map(|slot| host.writer.control().epoch(slot))
    };
    assert_eq!(
        [false, true, true, false].map(&mut switch),
        [[0, 0], [2, 0], [2, 0], [2, 0]]
    );
}

#[test]
fn links_come_and_go_between_generations() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1, 2])).unwrap();
    let branch = LinkId::branch(7);
    let slots = |host: &Host| [LINK, branch].map(|link| host.reader().link(link).map(|eni| eni.slot));
    assert_eq!(slots(&host), [None, None]);
    host.writer.add_link(LINK, 1).unwrap();
    host.writer.add_link(branch, 2).unwrap();
    assert_eq!((slots(&host), links(&host)), ([Some(1), Some(2)], (2, 0)));
    // The links stay bound in later generations.
    for generation in [2, 3] {
        assert_eq!(host.apply(&model(80, &[1, 2])), Ok(generation));
        assert_eq!(slots(&host), [Some(1), Some(2)]);
    }
    // A second removal changes nothing; the link's connections are old.
    host.writer.remove_link(branch);
    host.writer.remove_link(branch);
    assert_eq!((slots(&host), links(&host)), ([Some(1), None], (1, 1)));
    assert_eq!([1, 2].map(|slot| host.writer.control().epoch(slot)), [0, 1]);
    // The row of a removed link is reused once its connections are old.
    assert_eq!([1, 2].map(|slot| host.writer.is_pending(slot)), [false, true]);
    host.writer.synchronize(&mut || ());
    assert_eq!([1, 2].map(|slot| host.writer.is_pending(slot)), [false; 2]);
    let other = LinkId::device(8);
    host.writer.add_link(other, 2).unwrap();
    assert_eq!(
        (slots(&host), host.reader().link(other).unwrap().slot),
        ([Some(1), None], 2)
    );
    // Another slot on the same link.
    host.writer.add_link(LINK, 2).unwrap();
    assert_eq!(slots(&host), [Some(2), None]);
    assert_eq!([1, 2].map(|slot| host.writer.control().epoch(slot)), [1, 2]);
    host.apply(&model(80, &[1, 2])).unwrap();
    assert_eq!((slots(&host), links(&host)), ([Some(2), None], (2, 0)));
}

#[test]
fn links_may_come_before_the_first_generation_is_read() {
    let mut host = Host::new(1);
    let compiled = host.compile(&model(80, &[1]), &[]).unwrap();
    let prepared = host.writer.prepare(&compiled, &mut || ()).unwrap();
    assert_eq!(prepared.slot("eni-1"), Some(1));
    let _ = prepared.commit();
    for at in 0..LINK_ROWS.count {
        host.writer.add_link(LinkId::device(at + 1), 1).unwrap();
    }
    let error = host.writer.add_link(LinkId::branch(1), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot add link 8388609 to `links`: all 8192 rows are taken, those included that the configuration in force leaves; \
         restart taskgate, which takes its gates and connections over with a new image"
    );
    assert!((1..=LINK_ROWS.count).all(|at| host.reader().link(LinkId::device(at)).is_some()));
    assert_eq!(host.reader().link(LinkId::branch(1)), None);
}

/// Isolation has the same effect in the current generation as with a new one.
#[test]
fn isolating_an_eni_in_force_changes_its_flags_alone() {
    let mut host = Host::new(1);
    host.apply(&model(80, &[1, 2])).unwrap();
    host.writer.synchronize(&mut || ());
    let before = host.words();
    let rows = |host: &Host| [1, 2].map(|slot| host.reader().slot(slot).unwrap());
    let [one, two] = rows(&host);
    host.writer.isolate(1, true).unwrap();
    let isolated = EniRow {
        flags: one.flags | image::slot::ISOLATED,
        ..one
    };
    assert_eq!(rows(&host), [isolated, two]);
    assert_eq!([1, 2].map(|slot| host.writer.control().epoch(slot)), [1, 0]);
    // A repeated isolation does nothing; connections admitted by a packet under way become old, too.
    host.writer.isolate(1, true).unwrap();
    host.writer.synchronize(&mut || ());
    assert_eq!([1, 2].map(|slot| host.writer.control().epoch(slot)), [2, 0]);
    host.writer.isolate(1, false).unwrap();
    assert_eq!(rows(&host), [one, two]);
    let changed = before.iter().zip(host.words()).filter(|(before, now)| **before != *now);
    assert_eq!(changed.count(), 1, "more than the epoch is another one");
    assert_eq!(host.writer.isolate(3, true), Err(CompileError::UnknownSlot { slot: 3 }));
}
