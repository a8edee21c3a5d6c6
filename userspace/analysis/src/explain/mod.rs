//! The verdicts of the gates on the path between two tasks, and the rules that decide.
//!
//! The question becomes a real frame ([`crate::frame`]), which is judged by the same code as in the kernel, over an image
//! that is compiled on the host ([`gates`]). The reason why a rule did not match is derived from the model ([`nearest`]).

mod advice;
mod advised_peer;
mod aws_command;
mod error;
mod gates;
mod names;
mod nearest;
mod question;
mod unknown;

pub use crate::frame::Message;
pub use advice::{Advice, advice};
pub use error::QuestionError;

pub use gates::{Explainer, Explanation, GateVerdict, Verdict};
pub use nearest::{Field, Nearest, allows};
pub use question::{Asked, End, Question};
pub use unknown::{Unknown, unknown};
