//! The gates that an instance left attached when it ended.

use taskgate_api::DaemonStatus;
use taskgate_bpf::{gate::any_stands, pins::Pins};
use taskgate_tables::image::ImageControl;

use super::{error::StartError, instance, status::kernel};

/// The status of an instance that does not run, read from what it left in the kernel; `None` if none of its gates is
/// attached. Nothing is created or changed.
///
/// # Errors
/// The pins in bpffs or the filters of links cannot be read.
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
