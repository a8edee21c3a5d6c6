//! Many tasks on one host, each with its own traffic, and the expected records.

mod branches;
mod tasks;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

pub use branches::Branches;
pub use tasks::Tasks;

/// The most branches that a trunk has: VLAN ids 1 to 4,094.
pub const MOST_BRANCHES: u16 = 4094;
/// The most tasks that are made at once here.
pub const MOST_TASKS: u16 = 2000;

/// The security group of every task: its rules allow only this port, in both directions.
pub const GROUP: &str = "query";
const OPEN: u16 = 53;
/// A port that no rule allows.
const SHUT: u16 = 80;

/// The payload in both directions.
const DATA: &[u8] = b"32 bytes that nobody has to read";

/// The bytes of the packet that carries [`DATA`] over UDP and IPv4.
const PACKET: u64 = 20 + 8 + DATA.len() as u64;

/// The name of a task, by its number from 0 on.
fn name(number: u16) -> String {
    format!("task-{number}")
}

/// The address of a task by its number.
pub fn address(number: u16) -> IpAddr {
    let [high, low] = [number / 250, number % 250].map(|part| part as u8 + 1);
    IpAddr::V4(Ipv4Addr::new(10, 88, high, low))
}

/// The time limit for gating this many links: the kernel takes about 130 ms for each, and more when it is busy.
fn patience(links: u16) -> Duration {
    Duration::from_secs(30) + u32::from(links) * Duration::from_millis(600)
}
