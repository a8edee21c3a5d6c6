//! What the integration tests share: a host of its own for each test, the real `taskgate` on it, and real traffic.
//!
//! ```text
//!   outside ──veth── host ──gate── task      (made by taskgate: `namespace:`)
//!                     └─────gate── task      (made by the test: `device:`)
//! ```
//!
//! [`Lab`] makes the two network namespaces on the left and names for the rest, [`Daemon`] is a running `taskgate run`
//! in the one that stands for the host, [`Stage`] is both with their tasks, [`traffic`] opens sockets in any of them,
//! [`Wire`] counts what passes a link, and a [`Ledger`] holds what flow records say and what they ought to say. All of
//! it goes when a test ends, however it ends. Tests of taskgate's parts have a [`sandbox`]; a [`scene`] is a packet's.
//!
//! Tests need root and the release binary. Without them they fail: a test that did not run has not passed.
#![expect(clippy::print_stderr, reason = "the harness shows it under the test")]

pub mod capture;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod held;
pub mod kernel;
pub mod lab;
pub mod ledger;
pub mod names;
pub mod netns;
pub mod offload;
pub mod output;
mod packet_socket;
pub mod record;
pub mod sandbox;
pub mod scale;
pub mod scene;
pub mod stage;
pub mod traffic;
pub mod wire;

pub use capture::Capture;
pub use config::Config;
pub use counters::Counters;
pub use daemon::{Daemon, Reload, Stopped};
pub use held::Held;
pub use lab::{Lab, OUTSIDE_V4, OUTSIDE_V6};
pub use ledger::{Action, Count, Flow, Ledger};
pub use netns::Netns;
pub use stage::{Stage, at, ip};
pub use wire::Wire;
