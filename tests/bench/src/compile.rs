//! How long a rule set takes from model to image.

use std::time::Instant;

use anyhow::{Context as _, Result};
use taskgate_compiler::{CompileOptions, Compiled, GroupSetIds, ImageWriter, RuleIds};
use taskgate_ebpf::abi::image::{BANK_BYTES, POLICY_BANK};
use taskgate_model::Model;
use taskgate_tables::image::host_image;

use super::{
    rules::{self, NO_LIMITS, THOUSAND},
    spread::Spread,
};

/// The times to compile a model repeatedly.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileTime {
    /// The row's name.
    pub name: String,
    /// Microseconds from model to policies and rows.
    pub compile: Spread,
    /// Microseconds to write the compiled model into an empty image.
    pub write: Spread,
    pub policy_bytes: usize,
}

/// The daemon's default number of banks for policies.
fn policy_banks() -> u32 {
    taskgate_bpf::load::LoadOptions::default().policy_banks
}

/// The bytes of an image as the daemon makes it, whether full or empty.
pub fn image_bytes() -> u64 {
    u64::from(POLICY_BANK + policy_banks()) * u64::from(BANK_BYTES)
}

/// Compiles 1,000 rules for one ENI, without and with 10,000 members of the group that they refer to.
pub fn measure(rounds: u32) -> Result<Vec<CompileTime>> {
    let of = |members: u32| {
        let mut model = rules::host(members);
        let eni = rules::eni(1 + THOUSAND);
        model.enis.retain(|other| other.id == eni || other.binding.is_none());
        let members = if members == 1 { "1 member" } else { "10,000 members" };
        time(&model, format!("1,000 rules, {members}"), rounds)
    };
    [1, 10_000].into_iter().map(of).collect()
}

fn time(model: &Model, name: String, rounds: u32) -> Result<CompileTime> {
    let image = host_image(POLICY_BANK + policy_banks());
    let mut times = Vec::new();
    let mut policy_bytes = 0;
    for round in 0..=rounds {
        for word in &image {
            word.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        let mut writer = ImageWriter::new(&*image)?;
        let (mut rule_ids, mut sets) = (RuleIds::default(), GroupSetIds::default());
        let gate = |eni: &taskgate_model::Eni| eni.binding.is_some().then_some(NO_LIMITS);
        let scope = CompileOptions {
            gate: &gate,
            exempt: &[],
            dhcp: true,
        };
        let began = Instant::now();
        let compiled = Compiled::new(model, scope, &mut rule_ids, &mut sets)?;
        let compile = began.elapsed();
        let began = Instant::now();
        writer.prepare(&compiled, &mut || {})?.commit();
        let write = began.elapsed();
        policy_bytes = compiled.policy_bytes();
        // The first round fills caches.
        if round > 0 {
            times.push([compile, write].map(|time| time.as_secs_f64() * 1e6));
        }
    }
    let spread = |of: fn(&[f64; 2]) -> f64| Spread::of(times.iter().map(of)).context("no rounds");
    Ok(CompileTime {
        name,
        compile: spread(|[compile, _]| *compile)?,
        write: spread(|[_, write]| *write)?,
        policy_bytes,
    })
}
