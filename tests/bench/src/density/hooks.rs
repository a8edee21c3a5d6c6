//! The time to attach and detach gates, by kind of hook.

use std::time::Instant;

use anyhow::{Context as _, Result};
use taskgate_bpf::gate::Gate;
use taskgate_model::Model;
use taskgate_net::link::{Link, LinkKind};

use super::{DensityEffort, cost};
use crate::{loaded::LoadedFixture, spread::Spread, table::table};
use testkit::kernel;

/// Measures all ways that this kernel has, after [`cost::measure`] has made links in the same sandbox.
pub(super) fn measure(effort: DensityEffort, say: &dyn Fn(&str)) -> Result<String> {
    let mut rows = Vec::new();
    for hook in kernel::hooks() {
        say(&format!("gates on {hook:?}"));
        let mut fixture = LoadedFixture::of(1, Model::default(), &[], 0)?;
        let links = cost::links().take(effort.links.into());
        let mut gates: Vec<Gate> = Vec::new();
        let mut up = Vec::new();
        for (name, ifindex) in links {
            let kind = LinkKind::Veth { peer_here: None };
            let began = Instant::now();
            gates.push(fixture.attach_by(&Link { name, ifindex, kind }, hook)?);
            up.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let mut off = Vec::new();
        for gate in gates {
            let began = Instant::now();
            gate.detach()?;
            off.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let name = format!("{hook:?}, {} links", effort.links);
        let spread = |times: Vec<f64>| Spread::of(times).context("no links");
        let cells = [spread(up)?, spread(off)?].map(|Spread { median, least, most }| [median, least, most]);
        let mut row = vec![name];
        row.extend(cells.concat().iter().map(|time| format!("{time:.2}")));
        row.push(String::new());
        rows.push(row.try_into().ok().context("a row of another length")?);
    }
    let heading = [
        "milliseconds for a gate",
        "put up",
        "least",
        "most",
        "taken off",
        "least",
        "most",
        "",
    ];
    Ok(format!("\n{}", table::<8>(heading, &rows)))
}
