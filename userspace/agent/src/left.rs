//! What stands of an instance that does not run.

use taskgate_api::DaemonStatus;
use taskgate_bpf::{gate::any_stands, pins::Pins};
use taskgate_tables::image::ImageControl;

use super::{error::StartError, instance, status::kernel};

/// The status of an instance that does not run, read from what it left in the kernel; `None` where no gate of it stands. Nothing
/// is made or changed.
///
/// # Errors
/// What has a name in bpffs, or the links' filters, cannot be looked at.
pub fn left_standing(instance: &str) -> Result<Option<DaemonStatus>, StartError> {
    let pins = Pins::look(instance);
    if !any_stands(&pins, instance::number(instance))? {
        return Ok(None);
    }
    let images = pins.images()?.into_iter().map(ImageControl::new);
    Ok(Some(DaemonStatus {
        instance: instance.to_owned(),
        kernel: kernel(),
        generation: images.map(|image| image.generation()).max().unwrap_or_default(),
        ..DaemonStatus::default()
    }))
}
