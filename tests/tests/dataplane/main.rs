//! The dataplane against the running kernel. Needs root; each test has separate namespaces.

mod adopted;
mod enis;
mod gates;
mod links;
mod prefilter;
mod provisioned;
mod sysctls;
mod tables;

use taskgate_bpf::{load::LoadOptions, sk_buff::Sight};

/// Tables that are quickly made.
const SMALL: LoadOptions = LoadOptions {
    conns: 4096,
    denials: 1024,
    slots: 64,
    member_banks: 2,
    policy_banks: 1,
    log_level: log::LevelFilter::Off,
    instance: 0,
    sight: Sight::Cast,
};
