//! Every version that `setup` installs, in one place. Versions that cargo resolves are pinned in the workspace
//! manifest.

use std::time::Duration;

/// The nightly toolchain for the kernel program, which builds `core` from source; its LLVM is [`LLVM`].
pub(crate) const NIGHTLY: &str = "nightly-2026-06-10";
/// The major version of LLVM that the linker is built against: the compiler's LLVM must not be newer.
pub(crate) const LLVM: u32 = 22;
/// `bpf-linker` from crates.io.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// `cargo-fuzz` from crates.io, which [`NIGHTLY`] builds for; `libfuzzer-sys` is pinned in `tests/fuzz/Cargo.toml`.
pub(crate) const CARGO_FUZZ: &str = "0.13.2";

/// The programs that `cargo xtask lint` runs, from crates.io: the crate, its version, the program.
pub(crate) const CHECKERS: [(&str, &str, &str); 3] = [
    ("cargo-deny", "0.20.2", "cargo-deny"),
    // 1.12 and later want rustc 1.98.
    ("cargo-shear", "1.11.0", "cargo-shear"),
    ("typos-cli", "1.52.0", "typos"),
];

/// The Debian packages that `bpf-linker` is built against.
pub(crate) const LINKER_PACKAGES: [&str; 5] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];
/// Debian's compiler with a `core` for BPF, used if rustup's server cannot be reached.
pub(crate) const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Programs, their Debian packages, and the reason they are needed.
pub(crate) const PROGRAMS: [(&str, &str, &str); 4] = [
    ("cc", "build-essential", "Rust programs are linked by it"),
    (
        "ip",
        "iproute2",
        "the tests and the demo make network namespaces with it",
    ),
    (
        "ping",
        "iputils-ping",
        "the tests and the demo send echo requests with it",
    ),
    (
        "busybox",
        "busybox",
        "the tests get addresses by its DHCP client and server",
    ),
];

/// The further packages that `cargo xtask vm` alone needs, QEMU excepted.
pub(crate) const GUEST_PROGRAMS: [(&str, &str, &str); 4] = [
    ("strip", "binutils", "`cargo xtask vm` makes programs small with it"),
    ("xz", "xz-utils", "`cargo xtask vm` unpacks kernel modules with it"),
    ("dpkg", "dpkg", "`cargo xtask vm` unpacks Debian's kernels with it"),
    (
        "nft",
        "nftables",
        "tests of VLAN links close a host's other links with it",
    ),
];

/// The time limit of one download or build in `setup`.
pub(crate) const PATIENCE: Duration = Duration::from_mins(20);
