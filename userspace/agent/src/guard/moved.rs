//! Links that moved to another network namespace.
//!
//! A TCX gate moves with its link, and its program can be replaced wherever the link is. Filters are lost on a move:
//! such a link is searched for in its new namespace, and closed there.

use std::{sync::Arc, thread};

use taskgate_bpf::gate::{Gate, GatePrograms, Place};
use taskgate_net::watch::Moved;
use tracing::{error, warn};

use crate::error::chain;

/// Where a gate's link is. If that cannot be determined, it is taken to be here.
pub(super) fn place(gate: &Gate) -> Place {
    gate.place().unwrap_or_else(|error| {
        warn!("{}", chain(&error));
        Place::Here
    })
}

/// Whether a gate stays as it is because its link is here. `same`: a link that has its number is the one that was
/// gated.
pub(super) fn stays(place: Place, same: bool) -> bool {
    match place {
        Place::Here => true,
        Place::Bare => same,
        Place::Elsewhere | Place::Gone => false,
    }
}

/// Closes a link that lost its filters, on a separate thread: the search takes a while.
pub(super) fn close(programs: &Arc<GatePrograms>, link: &str, moved: Option<Moved>) {
    let (programs, link) = (Arc::clone(programs), link.to_owned());
    let run = move || {
        // Without a notification of a move, the link was destroyed, or netlink messages were lost.
        let Some(moved) = moved else { return };
        match programs.close_moved(moved) {
            Ok(()) => error!(
                link,
                "link `{link}` lost its gate when it was moved, and passes nothing where it is now"
            ),
            Err(cause) => {
                error!(
                    link,
                    "link `{link}` lost its gate when it was moved, and may be open where it is now: {cause}"
                );
            }
        }
    };
    if let Err(error) = thread::Builder::new().spawn(run) {
        error!("a link that lost its gate when it was moved is not looked for: {error}");
    }
}
