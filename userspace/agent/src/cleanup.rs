//! `taskgate cleanup`: takes away what an instance left standing.

use taskgate_bpf::{gate::take_off_all, pins::Pins};
use taskgate_flowlog::RecordError;
use taskgate_net::{
    eni::{InUse, remove_orphans},
    netlink::Netlink,
};
use tokio::runtime;
use tracing::{error, info};

use super::{
    control,
    error::{RunError, StartError, chain},
    instance::{self, Instance},
    journal, opened,
    state::StateFile,
    tasks,
};

/// Takes the gates of an instance off, and the ENIs away that it made; its tracked connections and what was not yet recorded
/// are gone with its tables. What belongs to other instances stays. Nothing to do where there is nothing.
///
/// # Errors
/// [`StartError::Taken`] while it runs; what the kernel refuses to take away.
pub fn cleanup(instance: &str) -> Result<(), RunError> {
    let _held = Instance::claim(instance)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::without("timers and sockets"))?;
    runtime.block_on(take_away(instance))?;
    tasks::forget(instance).map_err(StartError::from)?;
    Ok(())
}

/// [`cleanup`] by whoever holds the instance.
pub(super) async fn take_away(instance: &str) -> Result<(), StartError> {
    // Links that taskgate made go with their gates on.
    let netlink = Netlink::open()?;
    let left = remove_orphans(&netlink, instance, &InUse::default()).await;
    if !left.removed.is_empty() {
        info!("what taskgate made is taken away: {}", left.removed.join(", "));
    }
    for kept in &left.kept {
        error!("{kept}");
    }
    let pins = Pins::of(instance)?;
    let taken = take_off_all(&pins, instance::number(instance))?;
    opened::log(&taken);
    for failed in &taken.failed {
        error!("{}", chain(failed));
    }
    // From here on nobody takes anything over.
    StateFile::of(instance)?.remove()?;
    pins.release()?;
    control::remove(instance).map_err(StartError::without("a host without the control socket"))?;
    journal::remove(instance).map_err(RecordError::Journal)?;
    match left.kept.len() + taken.failed.len() {
        0 => Ok(()),
        things => Err(StartError::Kept { things }),
    }
}
