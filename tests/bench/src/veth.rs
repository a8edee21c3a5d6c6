//! Throughput over veth pairs with gates, compared with throughput without gates.
//!
//! ```text
//!   client ──gate── this namespace ──gate── a server for each family, with 1,000 rules
//! ```

use std::{fs, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::gate::Gate;
use taskgate_model::Family;
use taskgate_net::link::{Link, LinkKind};

use super::{
    PathEffort,
    exchange::{Exchange, ExchangeKind},
    loaded::{self, LoadedFixture},
    paths::{MEMBERS, ROOM, local},
    rules::{self, OPEN_PORT, THOUSAND, THOUSAND_V6, WIDE},
    spread::Spread,
};
use testkit::{
    netns::{Netns, await_up},
    sandbox::ip_batch,
};

/// The least throughput with gates, in per cent of that without.
pub const LEAST_SHARE: f64 = 97.0;

/// The place of the task that connects.
const CLIENT: usize = WIDE;
/// The indices of the servers' tasks.
const SERVERS: [(Family, usize); 2] = [(Family::V4, 1 + THOUSAND), (Family::V6, 1 + THOUSAND_V6)];
/// The tasks whose links are gated.
const TASKS: [usize; 3] = [CLIENT, SERVERS[0].1, SERVERS[1].1];

/// VethTraffic without and with gates.
#[derive(Clone, Debug, PartialEq)]
pub struct VethTraffic {
    /// The row's name.
    pub name: String,
    /// The unit of the rates.
    pub unit: &'static str,
    /// The rate without any program on the links.
    pub without: Spread,
    /// The rate with gates on both of them.
    pub with: Spread,
    /// Throughput with gates in per cent of that without, round by round.
    pub share: Spread,
}

impl VethTraffic {
    /// Whether the throughput keeps its budget.
    pub fn met(&self) -> bool {
        self.share.median >= LEAST_SHARE
    }
}

/// Measures all traffic, after [`loaded::make_links`] in the same sandbox. It moves the links' other ends into
/// namespaces.
pub fn measure(effort: PathEffort, say: &dyn Fn(&str)) -> Result<Vec<VethTraffic>> {
    say("traffic over veth");
    forward()?;
    let mut fixture = LoadedFixture::load(ROOM, MEMBERS)?;
    let client = task(CLIENT)?;
    let servers: Vec<Netns> = SERVERS.iter().map(|(_, place)| task(*place)).collect::<Result<_>>()?;

    let mut gates = Some(attach(&mut fixture)?);
    let mut exchanges = Vec::new();
    for ((family, place), server) in SERVERS.into_iter().zip(&servers) {
        for kind in [ExchangeKind::Bulk, ExchangeKind::Transactions] {
            let exchange = Exchange::open(kind, &client, server, local(place, family), OPEN_PORT)?;
            exchanges.push((family, exchange));
        }
    }

    let mut rates: Vec<Vec<[f64; 2]>> = exchanges.iter().map(|_| Vec::new()).collect();
    for round in 0..=effort.veth_rounds {
        let mut both = vec![[0.0; 2]; exchanges.len()];
        // Each round begins in the state in which the previous one ended.
        let gated_first = round % 2 == 0;
        for gated in [gated_first, !gated_first] {
            match (gated, gates.take()) {
                (true, None) => gates = Some(attach(&mut fixture)?),
                (true, standing) => gates = standing,
                (false, standing) => standing.into_iter().flatten().try_for_each(Gate::detach)?,
            }
            let before = fixture.counted()?;
            for ((_, exchange), both) in exchanges.iter().zip(&mut both) {
                both[usize::from(gated)] = exchange.slice(effort.slice)?;
            }
            let tracked = fixture.counted()?.tracked - before.tracked;
            ensure!(
                (tracked > 0) == gated,
                "gates have tracked {tracked} packets, {}",
                if gated { "with gates" } else { "without any" }
            );
            // One for each end.
            let (conns, expected) = (fixture.conns()?, 2 * exchanges.len() as u64);
            ensure!(conns == expected, "{conns} connections are tracked, not {expected}");
        }
        // The first round fills caches and lets sockets adapt their windows.
        if round > 0 {
            rates.iter_mut().zip(both).for_each(|(rates, both)| rates.push(both));
        }
    }

    let traffic = exchanges.iter().zip(&rates).map(|((family, exchange), rates)| {
        let spread = |of: fn(&[f64; 2]) -> f64| Spread::of(rates.iter().map(of)).context("no rounds");
        let (kind, unit) = (exchange.kind(), exchange.kind().unit());
        Ok(VethTraffic {
            name: format!("{kind}, {family}, {unit}"),
            unit,
            without: spread(|[without, _]| *without)?,
            with: spread(|[_, with]| *with)?,
            share: spread(|[without, with]| with / without * 100.0)?,
        })
    });
    traffic.collect()
}

/// Puts a gate on the link of each task.
fn attach(fixture: &mut LoadedFixture) -> Result<Vec<Gate>> {
    let gates = TASKS.map(|place| {
        let ifindex = loaded::link(place);
        let kind = LinkKind::Veth { peer_here: None };
        let name = loaded::name(ifindex);
        fixture.attach(&Link { name, ifindex, kind })
    });
    gates.into_iter().collect()
}

/// Lets this namespace forward.
fn forward() -> Result<()> {
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let file = format!("/proc/sys/net/{file}");
        fs::write(&file, "1").with_context(|| format!("cannot write `{file}`"))?;
    }
    Ok(())
}

/// A namespace at the other end of the link at this place, which reaches all others through this one. Its neighbour
/// entries are static, so that no other packets are on the link.
fn task(place: usize) -> Result<Netns> {
    const HERE: &str = "02:00:00:00:00:01";
    const THERE: &str = "02:00:00:00:00:02";
    let netns = Netns::new(&rules::eni(place))?;
    let (link, other) = (loaded::name(loaded::link(place)), loaded::name(loaded::other(place)));
    let addresses = [Family::V4, Family::V6].map(|family| local(place, family));
    let mut lines = vec![
        format!("link set {other} netns {}", netns.path()),
        format!("link set {link} address {HERE} addrgenmode none"),
        format!("link set {link} up"),
    ];
    for address in addresses {
        lines.push(format!("route add {address} dev {link}"));
        lines.push(format!("neigh replace {address} lladdr {THERE} dev {link}"));
    }
    ip_batch(&lines.join("\n"))?;

    let mut lines = vec![
        format!("link set {other} address {THERE} addrgenmode none"),
        format!("link set {other} up"),
    ];
    for address in addresses {
        let (gateway, nodad) = match address {
            IpAddr::V4(_) => ("169.254.0.1", ""),
            IpAddr::V6(_) => ("fe80::1", "nodad"),
        };
        lines.push(format!("address add {address} dev {other} {nodad}"));
        lines.push(format!("route add {gateway} dev {other}"));
        lines.push(format!("route add default via {gateway} dev {other}"));
        lines.push(format!("neigh replace {gateway} lladdr {HERE} dev {other}"));
    }
    netns.ip(&lines.join("\n"))?;
    await_up(&[(&netns, &other)])?;
    Ok(netns)
}
