//! Packets at the gate of a task: their outcomes and everything that they leave, with the pure core and with the loaded
//! program.

mod addresses;
mod beyond_link;
mod change;
mod errors;
mod full;
mod groups;
mod headers;
mod link_local;
mod neighbours;
mod odd;
mod sequence;
mod timeouts;
mod tracking;
mod uplink;

use std::net::IpAddr;

use taskgate_model::{Eni, Model, Ports, Protocol};
use testkit::fixture::{
    frames,
    model::{gated, group, model, tcp_to},
};

const TASK4: &str = "10.9.0.5";
const TASK6: &str = "2001:db8:9::5";
/// In the network that may open connections.
const PEER4: &str = "10.0.1.7";
const PEER6: &str = "2001:db8:1::7";
const STRANGER4: &str = "203.0.113.9";
const STRANGER6: &str = "2001:db8:bad::9";

fn at(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The task.
fn task() -> Eni {
    gated("task", &[TASK4, TASK6], &[0])
}

/// A single task with these rules.
fn with_rules(ingress: &[(Protocol, &str)], egress: &[(Protocol, &str)]) -> Model {
    model(vec![group("web", ingress, egress)], vec![task()])
}

/// The task of the tests with odd packets: TCP 443 from one network of each family, and nothing else.
fn web() -> Model {
    let rules = [(tcp_to(443, 443), "10.0.1.0/24"), (tcp_to(443, 443), "2001:db8:1::/48")];
    with_rules(&rules, &[])
}

/// UDP to a single port.
fn udp_to(port: u16) -> Protocol {
    Protocol::Udp(Ports { from: port, to: port })
}

/// A TCP segment from a peer's port 40000 to the task's 443, and the opposite one.
fn in4(flags: u8) -> Vec<u8> {
    frames::ip(at(PEER4), at(TASK4), 6, &frames::tcp(40000, 443, flags, b""))
}

fn out4(flags: u8) -> Vec<u8> {
    frames::ip(at(TASK4), at(PEER4), 6, &frames::tcp(443, 40000, flags, b""))
}
