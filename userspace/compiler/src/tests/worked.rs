//! The worked example of docs/architecture.md: the words of one policy of `examples/aws`, as that page shows them.

use std::fmt::Write as _;
use std::{fs, path::Path};

use taskgate_ebpf::abi::image::{AxisEntry, BANK_BYTES, PolicyHeader};

use super::Host;

const DB: &str = "eni-00240c44daa7c9c87";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Every word of a policy with its meaning.
fn described(word: impl Fn(u32) -> u64) -> String {
    let mut text = String::new();
    let mut line = |at: u32, what: &str| {
        writeln!(text, "{at:#05x}  {:016x}  {what}", word(at)).expect("a string grows");
    };
    line(0, "words in a bitmap, and the magic number");
    let header = PolicyHeader::from_words(std::array::from_fn(|at| word(8 * at as u32))).expect("a policy");
    line(PolicyHeader::RULES, "rules, and where their words are");
    let names = ["TCP port", "UDP port", "ICMP type and code", "other protocol"];
    let ports = names
        .into_iter()
        .zip((0..).map(PolicyHeader::port_axis).zip(header.ports));
    let others = [
        ("peer", (PolicyHeader::PEERS, header.peers)),
        ("group set", (PolicyHeader::GROUPS, header.groups)),
    ];
    let axes: Vec<_> = ports.chain(others).collect();
    for (name, (at, _)) in &axes {
        line(*at, &format!("{name} axis: its depth, and where its entries are"));
    }
    for rule in 0..header.rule_count {
        line(
            header.rules + 8 * rule,
            &format!("bit {rule}: flags and number of the rule"),
        );
    }
    let mut rows = Vec::new();
    for (name, (_, axis)) in axes {
        for entry in 0..1 << axis.depth {
            let at = axis.offset + 8 * entry;
            let AxisEntry { key, row } = AxisEntry::from_word(word(at));
            line(at, &format!("{name} from {key} on: row at {row:#x}"));
            rows.push(row);
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
    let ingress_v4 = host.reader().slot(slot).expect("its row is there").roots[1].v4;
    let words = host.words();
    let at = |offset: u32| words[((ingress_v4.bank() * BANK_BYTES + ingress_v4.offset() + offset) / 8) as usize];
    let text = described(at);
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page is there");
    assert!(
        page.contains(&format!("```text\n{text}```")),
        "docs/architecture.md should have\n{text}"
    );
}
