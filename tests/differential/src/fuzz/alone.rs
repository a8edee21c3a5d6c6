//! Independence of tasks: a task's packets end as they would without the packets of others.

use std::collections::BTreeSet;

use taskgate_ebpf::abi::Outcome;

/// How a packet ended, on which link, and the slot of the ENI that the link had then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) link: u32,
    pub(super) slot: Option<u16>,
    /// The link, or the bridge that it was a port of at that time.
    pub(super) segment: u32,
    pub(super) outcome: Outcome,
}

/// The links that had an ENI or a bridge in common with the link of the last packet, at any time, directly or through
/// other links; `None` if no other links had packets.
pub(super) fn neighbourhood(ended: &[Ended]) -> Option<BTreeSet<u32>> {
    let mut links = BTreeSet::from([ended.last()?.link]);
    loop {
        let on_links = ended.iter().filter(|ended| links.contains(&ended.link));
        let slots: BTreeSet<u16> = on_links.filter_map(|ended| ended.slot).collect();
        let on_links = ended.iter().filter(|ended| links.contains(&ended.link));
        let segments: BTreeSet<u32> = on_links.map(|ended| ended.segment).collect();
        let of_slots = ended
            .iter()
            .filter(|ended| segments.contains(&ended.segment) || ended.slot.is_some_and(|slot| slots.contains(&slot)));
        let before = links.len();
        links.extend(of_slots.map(|ended| ended.link));
        if links.len() == before {
            break;
        }
    }
    ended.iter().any(|ended| !links.contains(&ended.link)).then_some(links)
}

/// Panics if packets on these links ended differently with and without the others.
pub(super) fn compare(links: &BTreeSet<u32>, among_others: &[Ended], alone: &[Ended]) {
    let among_others: Vec<_> = among_others
        .iter()
        .filter(|ended| links.contains(&ended.link))
        .collect();
    for (number, (among_others, alone)) in among_others.iter().zip(alone).enumerate() {
        assert_eq!(
            *among_others, alone,
            "packet {number} on {links:?}: among others, and alone"
        );
    }
    assert_eq!(among_others.len(), alone.len(), "packets on {links:?}");
}
