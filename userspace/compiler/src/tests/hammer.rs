//! Lookups while thousands of members and tasks are added and removed: no packet finds the groups of another address.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use taskgate_ebpf::policy;
use taskgate_tables::image::ImageView;

use super::properties::Choices;
use super::*;

/// The number of tasks that are added and removed. A task's group is its number's parity.
const TASKS: u16 = 16;
/// The number of members elsewhere that change with new generations.
const MEMBERS: u16 = 10_000;
const READERS: usize = 2;

fn task_address(task: u16) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from(0x0a01_0000 + u32::from(task)))
}

fn member_address(member: u16) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::from(0x0a02_0000 + u32::from(member)))
}

fn with(address: IpAddr, eni: Eni) -> Eni {
    Eni {
        addresses: vec![address],
        ..eni
    }
}

/// The image as seen by a CPU that stalls at times, between any two words.
#[derive(Clone, Copy)]
struct HeldUp<'a> {
    memory: &'a [AtomicU64],
    bank: u32,
    pace: &'a Cell<u32>,
}

impl policy::Image for HeldUp<'_> {
    type Bank = Self;

    fn bank(&self, bank: u32) -> Option<Self> {
        Some(Self { bank, ..*self })
    }
}

impl policy::Bank for HeldUp<'_> {
    fn word(self, offset: u32) -> u64 {
        let pace = self.pace.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.pace.set(pace);
        if pace >> 28 == 0 {
            thread::yield_now();
        }
        ImageView(self.memory).get(self.bank, offset)
    }
}

/// A counter per reader, odd while a packet is under way.
struct Packets(AtomicU64);

impl Packets {
    fn run<R>(&self, packet: impl FnOnce() -> R) -> R {
        // Also if the packet panics, so that waiting for it ends.
        struct Under<'a>(&'a AtomicU64);
        impl Drop for Under<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        let _under = Under(&self.0);
        packet()
    }

    /// Waits until the current packet has ended.
    fn wait(&self) {
        let now = self.0.load(Ordering::SeqCst);
        while now % 2 == 1 && self.0.load(Ordering::SeqCst) == now {
            std::hint::spin_loop();
        }
    }
}

struct Shared {
    memory: Arc<[AtomicU64]>,
    packets: [Packets; READERS],
    ended: AtomicBool,
}

impl Shared {
    fn grace(&self) {
        self.packets.iter().for_each(Packets::wait);
    }

    /// Checks that each address gives its own row or none. `roots` and `sets`: those of the two groups. Returns the numbers
    /// of lookups that found a row, and of those that did not.
    fn look(&self, reader: usize, roots: [[PolicyRoots; 2]; 2], sets: [u32; 2]) -> (u64, u64) {
        let (mut choices, mut counts) = (Choices(reader as u64), (0, 0));
        let image = HeldUp {
            memory: &self.memory,
            bank: 0,
            pace: &Cell::new(reader as u32),
        };
        while !self.ended.load(Ordering::Relaxed) {
            let number = choices.next() as u16 % MEMBERS;
            let is_task = !choices.next().is_multiple_of(4);
            let (number, of) = if is_task {
                (number % TASKS, task_address(number % TASKS))
            } else {
                (number, member_address(number))
            };
            let group = usize::from(number % 2);
            self.packets[reader].run(|| {
                let rows = Rows::read(&image, Control::read(&image).unwrap()).unwrap();
                let row = rows.address(&image, of.into());
                if row == AddressRow::default() {
                    counts.1 += 1;
                    return;
                }
                counts.0 += 1;
                assert_eq!(row.group_set, sets[group], "{of} met other groups");
                assert_eq!(row.slot != 0, is_task, "{of}");
                let mut eni = EniRow::default();
                if is_task && rows.eni(row.slot, &mut eni).is_some() {
                    assert_eq!(eni.roots, roots[group], "{of} met another's policies");
                }
            });
        }
        counts
    }
}

/// The base model of a round: its members are random.
fn base(choices: &mut Choices, tasks: &[u16]) -> Model {
    let any = || vec![rule("in", tcp(80, 80), net("0.0.0.0/0"))];
    let only = || vec![rule("in", tcp(81, 81), net("10.0.0.0/8"))];
    let mut model = Model {
        groups: vec![group("even", any(), vec![]), group("odd", only(), any())],
        enis: vec![
            eni("eni-even", &["192.0.2.1"], &[0]),
            eni("eni-odd", &["192.0.2.2"], &[1]),
        ],
        ..Model::default()
    };
    let task = |task: &u16| {
        with(
            task_address(*task),
            eni(&format!("eni-{task}"), &[], &[usize::from(task % 2)]),
        )
    };
    model.enis.extend(tasks.iter().map(task));
    for at in (0..MEMBERS).filter(|_| choices.next().is_multiple_of(2)) {
        let member = member(&format!("eni-m{at}"), &[], &[usize::from(at % 2)]);
        model.enis.push(with(member_address(at), member));
    }
    model
}

#[test]
fn no_packet_meets_another_s_groups_while_tasks_and_members_come_and_go() {
    let shared = Shared {
        memory: host_image(image::POLICY_BANK + 1).into(),
        packets: [const { Packets(AtomicU64::new(0)) }; READERS],
        ended: AtomicBool::new(false),
    };
    let mut host = Host::new(1);
    let mut writer = ImageWriter::new(Arc::clone(&shared.memory)).unwrap();
    let mut choices = Choices(11);
    let mut tasks: Vec<u16> = Vec::new();
    let mut twins = base(&mut choices, &tasks);
    let compiled = host.compile(&twins, &[]).unwrap();
    let _ = writer.prepare(&compiled, &mut || ()).unwrap().commit();
    twins.enis.truncate(2);
    let reader = Reader::new(&shared.memory);
    let roots = [1, 2].map(|slot| reader.slot(slot).unwrap().roots);
    let sets = ["192.0.2.1", "192.0.2.2"].map(|own| reader.address(address(own)).group_set);
    let long = std::env::var_os("TASKGATE_TEST_LONG").is_some();
    let ends = Instant::now() + Duration::from_secs(if long { 60 } else { 3 });
    let (mut live, mut generations) = (0_u32, 0_u32);
    thread::scope(|scope| {
        let readers = [0, 1].map(|reader| {
            scope.spawn({
                let shared = &shared;
                move || shared.look(reader, roots, sets)
            })
        });
        // Enough changes and lookups for a test, however slow the machine is: a lookup counts twice.
        let few_lookups = || {
            shared
                .packets
                .iter()
                .any(|packets| packets.0.load(Ordering::Relaxed) < 20_000)
        };
        while (Instant::now() < ends || live < 1000 || generations < 3 || few_lookups())
            && readers.iter().all(|reader| !reader.is_finished())
        {
            let burst = Instant::now();
            while burst.elapsed() < Duration::from_millis(500) {
                let task = choices.next() as u16 % TASKS;
                let changed = with(
                    task_address(task),
                    eni(&format!("eni-{task}"), &[], &[usize::from(task % 2)]),
                );
                let there = tasks.iter().position(|other| *other == task);
                let went = if let Some(at) = there {
                    // No other ENI has its address.
                    let gone = writer.remove_eni(&twins, &changed);
                    gone.then(|| tasks.swap_remove(at)).is_some()
                } else {
                    let staged = writer.stage_eni(&twins, &changed, NO_LIMITS, true).unwrap();
                    let came = staged.map(crate::StagedEni::commit).is_some();
                    tasks.extend(came.then_some(task));
                    came
                };
                live += u32::from(went);
                if choices.next().is_multiple_of(64) {
                    writer.synchronize(&mut || shared.grace());
                }
            }
            let next = base(&mut choices, &tasks);
            let compiled = host.compile(&next, &[]).unwrap();
            let _ = writer.prepare(&compiled, &mut || shared.grace()).unwrap().commit();
            generations += 1;
        }
        shared.ended.store(true, Ordering::Relaxed);
        for reader in readers {
            let (found, nothing) = reader.join().unwrap();
            assert!(
                found > 300 && nothing > 300,
                "{found} lookups found something, {nothing} nothing"
            );
        }
    });
    assert!(
        live > 1000 && generations > 2,
        "{live} changes went live in {generations} generations"
    );
}
