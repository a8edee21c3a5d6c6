//! The worked example of docs/architecture.md: the words of one policy of `examples/aws`, as that page shows them.

use std::fmt::Write as _;
use std::{fs, path::Path};

use taskgate_ebpf::abi::image::{BANK_BYTES, POLICY_HEADER_BYTES, PolicyRef};

use super::Host;

const DB: &str = "eni-00240c44daa7c9c87";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Every word of a policy, with what it is.
fn described(word: impl Fn(u32) -> u64) -> String {
    let mut text = String::new();
    let mut line = |at: u32, what: &str| {
        writeln!(text, "{at:#05x}  {:016x}  {what}", word(at)).expect("a string grows");
    };
    line(0, "words in a bitmap, and the magic number");
    let (rules, rules_at) = ((word(8) >> 32) as u32, word(8) as u32);
    line(8, "rules, and where their words are");
    let mut axes = Vec::new();
    for (index, name) in [
        "TCP port",
        "UDP port",
        "ICMP type and code",
        "other protocol",
        "peer",
        "group set",
    ]
    .into_iter()
    .enumerate()
    {
        let at = 16 + 8 * index as u32;
        line(at, &format!("{name} axis: its depth, and where its entries are"));
        axes.push((name, word(at) as u32, 1 << (word(at) >> 32)));
    }
    assert_eq!(POLICY_HEADER_BYTES, 16 + 8 * axes.len() as u32);
    for rule in 0..rules {
        line(
            rules_at + 8 * rule,
            &format!("bit {rule}: flags and number of the rule"),
        );
    }
    let mut rows = Vec::new();
    for (name, at, entries) in axes {
        for entry in 0..entries {
            let at = at + 8 * entry;
            line(
                at,
                &format!("{name} from {} on: row at {:#x}", word(at) >> 32, word(at) as u32),
            );
            rows.push(word(at) as u32);
        }
    }
    rows.sort_unstable();
    rows.dedup();
    for row in rows {
        line(row, "row: which of its words are not 0");
        line(row + 8, "     the rules that cover it, a bit each");
    }
    text
}

#[test]
fn the_architecture_pages_example_is_what_the_compiler_writes() {
    let loaded = taskgate_config::load(&root().join("examples/aws")).expect("the example is valid");
    let mut host = Host::new(2);
    host.apply(&loaded.model).expect("the example compiles");
    let slot = host.writer.slot(DB).expect("db is gated");
    let ingress_v4 = PolicyRef(host.reader().slot(slot).expect("its row is there").roots[1] as u32);
    let words = host.words();
    let at = |offset: u32| words[((ingress_v4.bank() * BANK_BYTES + ingress_v4.offset() + offset) / 8) as usize];
    let text = described(at);
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page is there");
    assert!(
        page.contains(&format!("```text\n{text}```")),
        "docs/architecture.md should have\n{text}"
    );
}
