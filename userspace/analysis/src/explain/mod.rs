//! The verdicts of the gates on the way from one task to another, and the rules that decide.
//!
//! The question becomes a real frame ([`crate::frame`]) and is put to the very code that runs in the kernel, over an image that
//! is compiled on the host ([`gates`]). Why a rule did not match is worked out from the model ([`nearest`]).

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
