//! Tasks that are added to the files' configuration: they are subject to the same rules, and messages refer to them by name.

use taskgate_config::Sources;

use super::support::native;

const FOLDER: &str = "
taskgate: v1
groups: [{ name: web }, { name: db }]
tasks: [{ name: web-1, device: tg-web-1, addresses: [10.0.0.1], groups: [web] }]
members: [{ address: 10.0.0.9, groups: [db] }, { address: 10.0.0.8, groups: [web] }]
";

fn document(task: &str) -> String {
    format!("{{\"taskgate\":\"v1\",\"tasks\":[{task}]}}")
}

/// The messages that refuse a task.
fn refused(task: &str) -> String {
    let sources = Sources::of(&[("t.yaml", FOLDER)]);
    match sources.resolve_with(&[("added task", &document(task))]) {
        Ok(_) => String::from("(it loads)"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn an_added_task_is_what_a_file_would_make_of_it() {
    let task =
        "{\"name\":\"db-1\",\"namespace\":\"db-1\",\"addresses\":[\"10.0.0.2\",\"fd00::2\"],\"groups\":[\"DB\"]}";
    let added = Sources::of(&[("t.yaml", FOLDER)])
        .resolve_with(&[("added task", &document(task))])
        .unwrap();
    let file = native(&FOLDER.replace("tasks: [", &format!("tasks: [{task}, ")));
    assert_eq!(added.model, file.model);
    assert_eq!(added.warnings, file.warnings);
    assert_eq!(added.model.gated().count(), 2);
}

/// A copy of a task in the files is no conflict.
#[test]
fn a_copy_of_a_configured_task_is_that_task() {
    let task = "{\"name\":\"web-1\",\"device\":\"tg-web-1\",\"addresses\":[\"10.0.0.1\"],\"groups\":[\"web\"]}";
    let sources = Sources::of(&[("t.yaml", FOLDER)]);
    let added = sources.resolve_with(&[("added task", &document(task))]).unwrap();
    assert_eq!(added.model, native(FOLDER).model);
    assert_eq!(sources.task_place("WEB-1").as_deref(), Some("t.yaml:4:9"));
    assert_eq!(sources.task_place("web-2"), None);
}

#[test]
fn a_task_that_does_not_fit_is_refused_under_its_name() {
    let cases = [
        (
            r#"{"name":"Web-1","device":"d","addresses":["10.0.0.2"],"groups":["web"]}"#,
            "added task: task `Web-1` differs from the one at t.yaml:4:9; keep one of them",
        ),
        (
            r#"{"name":"b","device":"tg-web-1","addresses":["10.0.0.2"],"groups":["web"]}"#,
            "added task: device `tg-web-1` of task `b` is also that of task `web-1` at t.yaml:4:9; give each task its own",
        ),
        (
            r#"{"name":"b","device":"d","addresses":["10.0.0.1"],"groups":["web"]}"#,
            "t.yaml:4:9: address `10.0.0.1` of task `web-1` is also that of task `b` at added task; give each gated task \
             addresses of its own",
        ),
        (
            r#"{"name":"b","device":"d","addresses":["10.0.0.9"],"groups":["web"]}"#,
            "t.yaml:5:11: address `10.0.0.9` of a member is also that of task `b` at added task, with different groups; an \
             address belongs to one ENI of a VPC: take it away from the other",
        ),
        (
            r#"{"name":"b","device":"d","addresses":["10.0.0.2"],"groups":["mail"]}"#,
            "added task: there is no security group named `mail`; known are `web`, `db`",
        ),
        (
            r#"{"name":"b","device":"d","addresses":["10.0.0.300"],"groups":[]}"#,
            "added task: `groups` is empty; name at least one",
        ),
        (
            r#"{"name":"b","vlan":7,"mac":"02:00:00:00:00:01","addresses":["10.0.0.2"],"groups":["web"]}"#,
            "added task: task `b` has a `vlan`, and there is no trunk uplink; bind it by `device` or `namespace`, or add \
             `uplink` with `mode: trunk`",
        ),
        (
            r#"{"name":"b","device":"d","addresses":["10.0.0.2"],"groups":["web"],"colour":"red"}"#,
            "added task: ",
        ),
    ];
    for (task, expected) in cases {
        let told = refused(task);
        assert!(
            told.contains(expected),
            "{task}\n  expected: {expected}\n  told:     {told}"
        );
    }
}
