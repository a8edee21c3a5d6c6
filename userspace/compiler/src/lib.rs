//! The compiler: from the model to the image that the kernel judges by.
//!
//! [`Compiled`] is what a model says, as blocks of words and plans of rows, and knows no memory; [`ImageWriter`] brings
//! it into an image, on the host or mapped from the kernel, one generation after the other. The layout is
//! [`taskgate_ebpf::abi::image`] and nothing else. [`GroupSetIds`] and [`RuleIds`] are the two registers whose numbers
//! outlive a generation.

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
