//! Packets at the gate of a task: how each ends and all that it leaves, with the pure core and with the loaded program.

mod odd;

use std::net::IpAddr;

use taskgate::model::Model;
use taskgate_tests::scene::model::{gated, group, model, tcp_to};

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

/// The task of the odd packets: TCP 443 from one network of each family, and nothing else.
fn web() -> Model {
    let rules = [(tcp_to(443, 443), "10.0.1.0/24"), (tcp_to(443, 443), "2001:db8:1::/48")];
    model(
        vec![group("web", &rules, &[])],
        vec![gated("task", &[TASK4, TASK6], &[0])],
    )
}
