//! The common ground of the integration tests: a separate host for each test, the real `taskgate` on it, and real traffic.
//!
//! ```text
//!   outside ──veth── host ──gate── task      (made by taskgate: `namespace:`)
//!                     └─────gate── task      (made by the test: `device:`)
//! ```
//!
//! [`Topology`] makes the two network namespaces on the left and names for the rest, [`Daemon`] is a running
//! `taskgate run` in the host's namespace, [`E2eTest`] is both with their tasks, [`traffic`] opens sockets in any of
//! them, [`Wire`] counts the packets on a link, and a [`Ledger`] holds the sums of flow records and the expected ones.
//! All of this is removed when a test ends, in whatever way. Tests of taskgate's parts use a [`sandbox`]; tests of single
//! packets use a [`fixture`].
//!
//! Tests need root and the release binary. Without them they fail: a test that did not run has not passed.
#![expect(clippy::print_stderr, reason = "the harness shows it under the test")]
#![expect(missing_docs, reason = "for tests alone: names that say all need no words")]

pub mod capture;
pub mod config;
pub mod control;
pub mod counters;
pub mod daemon;
pub mod e2e;
pub mod fixture;
pub mod flow;
pub mod kernel;
pub mod ledger;
pub mod map_dump;
pub mod mutation;
pub mod names;
pub mod netns;
pub mod offload;
pub mod output;
mod packet_socket;
pub mod pins;
pub mod process;
pub mod random;
pub mod record;
pub mod sandbox;
pub mod scale;
pub mod steps;
pub mod topology;
pub mod traffic;
pub mod wire;

pub use capture::Capture;
pub use config::Config;
pub use control::ControlSocket;
pub use counters::Counters;
pub use daemon::{Daemon, Reload, Stopped};
pub use e2e::{E2eTest, at, ip};
pub use ledger::{Action, Count, Flow, Ledger};
pub use map_dump::MapDump;
pub use netns::Netns;
pub use process::Process;
pub use topology::{OUTSIDE_V4, OUTSIDE_V6, Topology};
pub use wire::Wire;
