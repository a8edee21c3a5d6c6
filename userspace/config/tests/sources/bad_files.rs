//! Files that cannot be read, or are not a configuration.

use crate::support::refused;

#[test]
fn files() {
    refused(&[
        (
            "empty file",
            &[("t.yaml", "")],
            "t.yaml: the file is empty; put AWS CLI output or `taskgate: v1` into it, or take it away",
        ),
        (
            "only a comment",
            &[("t.yaml", "# nothing\n")],
            "t.yaml: the file is empty; put AWS CLI output or `taskgate: v1` into it, or take it away",
        ),
        (
            "null",
            &[("t.yaml", "~\n")],
            "t.yaml:1:1: the file should be an object and is empty; write keys and values; the AWS CLI prints `null` where `--query` finds nothing",
        ),
        (
            "a list at the top",
            &[("g.json", "[1]")],
            "g.json:1:2: the file is a list in which a single value stands; it should be an object, or a list of pages or objects: print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`",
        ),
        (
            "a word at the top",
            &[("t.yaml", "hello\n")],
            "t.yaml:1:1: the file should be an object and is the single value `hello`; write keys and values",
        ),
        (
            "broken JSON",
            &[(
                "g.json",
                r#"{"SecurityGroups": [
  {"GroupId": "sg-1"
"#,
            )],
            "g.json:2:3: not readable: unclosed bracket '{'; write JSON or YAML",
        ),
        (
            "broken YAML",
            &[("t.yaml", "taskgate: v1\ngroups: [\n")],
            "t.yaml:2:9: not readable: unclosed bracket '['; write JSON or YAML",
        ),
        (
            "a tab as indentation",
            &[("t.yaml", "taskgate: v1\nsettings:\n\texempt: aws\n")],
            "t.yaml:3:2: not readable: tabs disallowed within this context (block indentation); write JSON or YAML",
        ),
        (
            "a missing quote",
            &[(
                "t.yaml",
                r#"taskgate: v1
account: "123
"#,
            )],
            "t.yaml:3:1: not readable: invalid indentation in multiline quoted scalar; write JSON or YAML",
        ),
        (
            "two documents",
            &[("t.yaml", "taskgate: v1\n---\ntaskgate: v1\n")],
            "t.yaml:2:1: a second document begins here; put each document into a file of its own",
        ),
        (
            "an unknown alias",
            &[("t.yaml", "taskgate: v1\ngroups: *g\n")],
            "t.yaml:2:9: not readable: while parsing node, found unknown anchor; write JSON or YAML",
        ),
        (
            "an alias that holds itself",
            &[("t.yaml", "taskgate: v1\ngroups: &g [*g]\n")],
            "t.yaml:2:13: the alias stands for something that holds it; write the value out",
        ),
        (
            "too many aliases",
            &[(
                "t.yaml",
                "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
            )],
            "t.yaml:5:26: the aliases stand for more than 100000 values; write the values out",
        ),
        (
            "a key that is a list",
            &[("t.yaml", "taskgate: v1\n? [a]\n: b\n")],
            "t.yaml:2:3: a key is a list or an object; write a plain word as the key",
        ),
        (
            "a key twice",
            &[(
                "t.yaml",
                "taskgate: v1\naccount: '123456789012'\naccount: '123456789012'\n",
            )],
            "t.yaml:3:1: the key `account` stands twice; keep one of them",
        ),
        (
            "no known key",
            &[("x.json", r#"{"Other": []}"#)],
            "x.json:1:1: the file has no key that taskgate knows; known are `SecurityGroups`, `SecurityGroupRules`, `NetworkInterfaces`, `PrefixLists`, `Vpcs`, `Subnets`, `Entries` and `taskgate`",
        ),
        (
            "the native form without its header",
            &[("t.yaml", "groups:\n  - name: web\n")],
            "t.yaml:1:1: `groups` belongs to the native form, and `taskgate` is missing; write `taskgate: v1` at the top",
        ),
        (
            "another version",
            &[("t.yaml", "taskgate: v2\ngroups: []\n")],
            "t.yaml:1:11: the native form `v2` is not known; write `taskgate: v1`",
        ),
        (
            "a version that is a list",
            &[("t.yaml", "taskgate: [v1]\n")],
            "t.yaml:1:11: `taskgate` should be a single value and is a list; write one value",
        ),
        (
            "an unknown key at the top",
            &[("t.yaml", "taskgate: v1\ngroup: []\n")],
            "t.yaml:2:1: the native form has no key `group`; its keys are `account`, `groups`, `prefix-lists`, `tasks`, `members`, `uplink`, `settings`, `flow-logs` and `metrics`, and those of the AWS CLI",
        ),
        (
            "terraform",
            &[(
                "state.json",
                r#"{"format_version": "1.0", "terraform_version": "1.9.0", "values": {}}"#,
            )],
            "state.json:1:27: reading the output of `terraform show -json` is not built yet; take the file out of the folder",
        ),
        (
            "a cut list",
            &[(
                "g.json",
                r#"{"SecurityGroups": [],
 "NextToken": "eyJ"}"#,
            )],
            "g.json:2:2: the list is cut: there is a `NextToken`; print it again without `--max-items` and `--no-paginate`",
        ),
        (
            "errors in several files at once",
            &[
                ("a.json", "{"),
                (
                    "b.yaml",
                    "taskgate: v1\naccount: x\ngroups: [{name: web, ingress: [{protocol: tcp, from: group:db}]}]\n",
                ),
            ],
            "a.json:1:1: not readable: unclosed bracket '{'; write JSON or YAML\nb.yaml:2:10: `x` is no account; write twelve digits, such as `123456789012`",
        ),
    ]);
}
