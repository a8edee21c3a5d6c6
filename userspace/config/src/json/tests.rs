//! The JSON reader compared with expected values, with `serde_json` and with the YAML reader.

use proptest::prelude::*;

use super::super::yaml;
use super::*;

fn shown(text: &str) -> String {
    match outline(Location::default(), text, 100) {
        Ok(outline) => show(&outline.root.node(&mut Diagnostics::default())),
        Err(Unread::NotJson) => String::from("no JSON"),
        Err(Unread::Beyond(location, message, _)) => format!("{}:{} {message}", location.line, location.column),
        Err(Unread::Second(location)) => format!("{}:{} another", location.line, location.column),
    }
}

fn show(node: &Node<'_>) -> String {
    let (line, column) = (node.location.line, node.location.column);
    let value = match &node.value {
        Value::Null => String::from("null"),
        Value::Scalar(text) => format!("{text:?}"),
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Map(entries) => {
            let entry = |entry: &Entry<'_>| format!("{}:{}={}", entry.key, entry.location.column, show(&entry.value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
        }
    };
    format!("{line}:{column} {value}")
}

#[test]
fn values_and_their_places() {
    for (text, expected) in [
        ("{}", "1:1 {}"),
        (" [ ] ", "1:2 []"),
        ("[1, -2.5e+7,\r\n\t\"x\"]", "1:1 [1:2 \"1\" 1:5 \"-2.5e+7\" 2:2 \"x\"]"),
        ("{\"é\": \"ü\", \"b\": null}", "1:1 {é:2=1:7 \"ü\" b:12=1:17 null}"),
        (
            "[true,\nfalse, \"null\"]",
            "1:1 [1:2 \"true\" 2:1 \"false\" 2:8 \"null\"]",
        ),
        (
            r#"["\u0041\ud83d\ude00\"\\\/\b\f\n\r\t"]"#,
            "1:1 [1:2 \"A😀\\\"\\\\/\\u{8}\\u{c}\\n\\r\\t\"]",
        ),
        ("{} {}", "1:4 another"),
        ("[]\n[]", "2:1 another"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_json_is_left_to_yaml() {
    for text in [
        "",
        "{",
        "[1",
        "[1,]",
        "{\"a\" 1}",
        "{a: 1}",
        "[01]",
        "[1.]",
        "[+1]",
        "[.5]",
        "[1e]",
        "[nul]",
        "[\"\t\"]",
        r#"["\x"]"#,
        r#"["\ud83d"]"#,
        r#"["\ud83dx"]"#,
        r#"["\u12"]"#,
        r#"["\ud83d\u0041"]"#,
        "[1] x",
        "['a']",
        "[\"\\",
        "{\"a\":}",
        "[1 2]",
        "{\"a\":1,}",
        "- a",
    ] {
        assert_eq!(shown(text), "no JSON", "{text}");
    }
}

#[test]
fn what_is_beyond_the_bounds_is_said() {
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(shown(&deep(65)), "1:65 lists and objects are nested more than 64 deep");
    assert!(shown(&deep(64)).starts_with("1:1 [1:2 ["));
    // No stack to run out of.
    assert_eq!(
        shown(&"[".repeat(1_000_000)),
        "1:65 lists and objects are nested more than 64 deep"
    );
    let long = format!("[{}1]", "1,".repeat(99));
    assert_eq!(
        shown(&long),
        "1:200 the configuration has more values than taskgate reads"
    );
    let keys: Vec<String> = (0..=1_000).map(|key| format!("\"{key}\":1")).collect();
    let outline = outline(Location::default(), &format!("{{{}}}", keys.join(",")), 10_000).map(|_| ());
    assert!(matches!(outline, Err(Unread::Beyond(..))), "{outline:?}");
}

/// Any JSON value as text, with space and escapes in many places.
fn json() -> impl Strategy<Value = String> {
    let space = || proptest::sample::select(vec!["", "", "", " ", "  ", "\n", "\r\n", "\t"]);
    let string = prop_oneof![
        "[ -!#-\\[\\]-~]{0,8}",
        "[a-zäöü€😀]{0,4}",
        proptest::sample::select(vec![
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u00e9",
            "\\ud83d\\ude00",
            "null",
            "12",
            "~",
            "#",
            "'"
        ])
        .prop_map(String::from),
    ]
    .prop_map(|inner| format!("\"{inner}\""));
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        proptest::sample::select(vec!["0", "-0", "1.5", "-2e10", "3E-2", "0.10"]).prop_map(String::from),
    ];
    let word = proptest::sample::select(vec!["null", "true", "false"]).prop_map(String::from);
    let leaf = prop_oneof![string.clone(), number, word];
    let key = ("[a-zé]{0,6}", any::<u16>()).prop_map(|(name, number)| format!("\"{name}{number}\""));
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let item = (space(), inner.clone(), space()).prop_map(|(before, item, after)| format!("{before}{item}{after}"));
        let entry = (space(), key.clone(), space(), space(), inner, space())
            .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
        let joined = |items: Vec<String>| items.join(",");
        prop_oneof![
            (proptest::collection::vec(item, 0..5), space()).prop_map(move |(items, empty)| format!(
                "[{}{}]",
                joined(items),
                empty
            )),
            (proptest::collection::vec(entry, 0..5), space()).prop_map(move |(items, empty)| format!(
                "{{{}{}}}",
                joined(items),
                empty
            )),
        ]
    })
}

/// The text with a few bytes changed, if it is still valid UTF-8.
fn damaged() -> impl Strategy<Value = String> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"{}[]\",:\\ nul0-.eE+\n".to_vec())
    ];
    let damage = (any::<proptest::sample::Index>(), 0..3_u8, byte);
    (json(), proptest::collection::vec(damage, 0..3)).prop_filter_map("no text", |(text, damage)| {
        let mut bytes = text.into_bytes();
        for (at, how, byte) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        String::from_utf8(bytes).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Exactly the texts that serde_json takes are JSON.
    #[test]
    fn json_is_what_serde_json_takes(text in damaged()) {
        // One of them does not look into strings, the other refuses numbers that are out of range.
        let form = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let value = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        match outline(Location::default(), &text, 1_000_000) {
            Ok(_) => prop_assert!(form, "{text}"),
            Err(Unread::NotJson | Unread::Second(_)) => prop_assert!(!value, "{text}"),
            Err(Unread::Beyond(..)) => {}
        }
    }

    /// YAML contains JSON: both readers find the same values at the same places.
    #[test]
    fn both_readers_read_json_alike(text in json()) {
        let mut report = Diagnostics::default();
        let tree = yaml::parse(Location::default(), &text, 1_000_000, &mut report);
        if let (Ok(outline), Some((tree, _))) = (outline(Location::default(), &text, 1_000_000), tree) {
            prop_assert_eq!(show(&outline.root.node(&mut report)), show(&tree), "{}", text);
        }
    }
}
