//! The compiler: from the model to the image that the kernel programs read.
//!
//! [`Compiled`] is a model as blocks of words and planned rows, independent of memory; [`ImageWriter`] writes it to an
//! image, on the host or mapped from the kernel, one generation after another. The layout is defined by
//! [`taskgate_ebpf::abi::image`] alone. [`GroupSetIds`] and [`RuleIds`] are the two registers whose numbers outlive a
//! generation.

mod axis;
mod compiled;
mod error;
mod generation;
mod image;
mod image_size;
mod live;
#[cfg(any(test, feature = "testing"))]
pub mod oracle;
mod policy;
mod policy_allocator;
mod rule_ids;
mod sets;
mod slots;
mod table;
#[cfg(test)]
mod tests;

pub use compiled::{CompileOptions, Compiled, EniLimits};
pub use error::CompileError;
pub use generation::Prepared;
pub use image::ImageWriter;
pub use image_size::ImageSize;
pub use live::{LiveChange, StagedEni};
pub use rule_ids::{NumberedRule, RuleIds, RuleName};
pub use sets::GroupSetIds;
