//! The cost of adding a task to a host that has many others.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{Process, Topology};

use crate::{add, end, generation, remove, server};

const OTHERS: u16 = 1000;
const ADDED: u32 = 20;

#[test]
fn a_task_beside_a_thousand_others_is_added_in_milliseconds() -> Result<()> {
    let topology = Topology::new()?;
    let mut config = server(&topology);
    for other in 0..OTHERS {
        let address = format!("10.77.{}.{}", other / 250, other % 250 + 1);
        config = config.device_task(&format!("t{other}"), &format!("tgx{other}"), &[&address], &["server"]);
    }
    let daemon = topology.start(&config)?;
    let before = generation(&topology)?;
    let (time, began) = (Process::of(&daemon)?.cpu, Instant::now());
    for at in 0..ADDED {
        let name = format!("db-{at}");
        let namespace = topology.config().namespace(&name);
        let address = format!("10.88.1.{}", at + 1);
        add(
            &topology,
            &json!({ "name": name, "groups": ["server"], "addresses": [address], "namespace": namespace }),
        )?;
    }
    let (taken, elapsed) = (Process::of(&daemon)?.cpu.saturating_sub(time), began.elapsed());
    println!("{ADDED} tasks added beside {OTHERS}: {taken:?} of processor time in {elapsed:?}");
    ensure!(generation(&topology)? == before);
    for at in 0..ADDED {
        remove(&topology, &format!("db-{at}"))?;
    }
    end(&topology, daemon)
}
