//! taskgate is killed, and started again: no live connection is cut, no denied packet passes, and no packet is missing
//! from the records.

mod alive;
mod attach;
mod changed;
mod damaged;
mod enis;
mod links;
mod records;
mod rounds;
mod sinks;
mod steps;

use anyhow::{Result, ensure};
use testkit::{
    Config, E2eTest, Netns, at,
    ledger::Flow,
    traffic::{Answer, Client, UdpPeer, probe, probe_for},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
/// No rule allows connections from inside, so that all connections are tracked.
const SERVER: &str = "ingress: [{ protocol: tcp, ports: [80, 8000-8099], from: any }, { protocol: udp, ports: 53, from: any }], \
                      egress: []";

fn server(config: Config) -> Config {
    config.group("server", SERVER).task("web-1", &[WEB], &["server"])
}

/// Checks that a task's gate follows [`SERVER`]. The task's port 80 echoes.
fn check_gate(outside: &Netns, task: &Netns, address: &str) -> Result<()> {
    Client::connect(outside, at(address, 80))?.finish()?;
    check_denials(outside, task, address)
}

/// A task's gate denies packets that [`SERVER`] does not allow.
fn check_denials(outside: &Netns, task: &Netns, address: &str) -> Result<()> {
    ensure!(probe(outside, at(address, 81))? == Answer::Silence);
    ensure!(probe(task, at("10.99.0.2", 80))? == Answer::Silence);
    Ok(())
}

/// The port has no listener, and the gate lets the client see that.
fn check_open(from: &Netns, address: &str, port: u16) -> Result<()> {
    ensure!(probe_for(from, at(address, port), Answer::Refused)? == Answer::Refused);
    Ok(())
}

/// Requests and their answers, all of which come.
struct Talk {
    client: UdpPeer,
    server: UdpPeer,
}

impl Talk {
    fn begin(test: &E2eTest) -> Result<Self> {
        Ok(Self {
            client: UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?,
            server: UdpPeer::bind(test.task("web-1")?, &format!("{WEB}:53"))?,
        })
    }

    fn go_on(&self) -> Result<Flow> {
        self.client.converse(&self.server, 20)
    }
}

/// No packet of these flows was dropped, in either direction.
fn check_whole(test: &E2eTest, task: &str, flows: &[Flow]) -> Result<()> {
    let inside = test.wire(task)?;
    for flow in flows {
        for (flow, from, to) in [(*flow, &test.outside, inside), (flow.back(), inside, &test.outside)] {
            let (sent, received) = (from.sent(flow)?, to.received(flow)?);
            ensure!(sent.packets != 0, "nothing was sent on {flow:?}");
            ensure!(sent == received, "of {sent:?} on {flow:?} {received:?} came");
        }
    }
    Ok(())
}
