//! `taskgate cleanup`: removes everything that an instance left on the host.

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

/// Detaches an instance's gates and deletes the ENIs that it created. Its tracked connections and the traffic not yet
/// recorded are lost with its tables. Other instances are not affected. Does nothing if the instance left nothing.
///
/// # Errors
/// [`StartError::Taken`] while the instance runs; [`StartError::Kept`] if ENIs or gates could not be removed; other
/// errors if the kernel or a file system refuses an operation.
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

/// The removal part of [`cleanup`], for a caller that already holds the instance.
pub(super) async fn take_away(instance: &str) -> Result<(), StartError> {
    // Links that taskgate created are deleted with their gates still attached.
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
    // Without the state file no later process takes anything over.
    StateFile::of(instance)?.remove()?;
    pins.release()?;
    control::remove(instance).map_err(StartError::without("a host without the control socket"))?;
    journal::remove(instance).map_err(RecordError::Journal)?;
    match left.kept.len() + taken.failed.len() {
        0 => Ok(()),
        things => Err(StartError::Kept { things }),
    }
}
