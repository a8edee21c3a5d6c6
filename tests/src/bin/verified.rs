//! Loads the kernel program and prints this kernel's results, a line each: how many instructions its verifier went
//! through for each program, and the hooks to which gates attach. `cargo xtask vm` runs it on each kernel.
#![allow(clippy::print_stdout, reason = "printing is all that it does")]

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::{load::LoadOptions, object::BpfObject};
use taskgate_net::netlink::Netlink;
use testkit::sandbox::{ip, sandbox};

/// The most verified instructions of a program (docs/performance.md).
const BUDGET: u32 = 250_000;

fn main() -> Result<()> {
    let mut object = BpfObject::load(&LoadOptions::default()).context("the kernel program does not load")?;
    let early = object.load_prefilter().context("the prefilter does not load")?;
    println!("vm: the prefilter is `{early}`");
    println!("vm: gates see what is left to be done to a frame: {:?}", object.sight());
    let mut over = Vec::new();
    for (program, instructions) in object.verified_instructions()? {
        match instructions {
            Some(instructions) => println!("vm: verified instructions of {program}: {instructions}"),
            None => println!("vm: verified instructions of {program}: not told by this kernel"),
        }
        if instructions.is_some_and(|instructions| instructions > BUDGET) {
            over.push(program);
        }
    }
    sandbox(async || {
        ip("link add gated type veth peer name other")?;
        let link = Netlink::open()?.link("gated").await?;
        let gate = object.attach(&link)?;
        println!("vm: gates hang on {:?}", gate.hook());
        match ip("link add link gated name tagged type vlan id 7") {
            Ok(_) => println!("vm: 802.1Q links can be made"),
            Err(error) => println!("vm: 802.1Q links cannot be made: {error}"),
        }
        Ok(())
    })?;
    ensure!(
        over.is_empty(),
        "over {BUDGET} verified instructions: {}",
        over.join(", ")
    );
    Ok(())
}
