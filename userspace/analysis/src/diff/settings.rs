//! Changes of settings, the uplink and flow logs.

use std::net::IpAddr;

use taskgate_model::{
    AddressList, Attach, ConnectionLimits, DenialLimits, Destination, Floor, FlowLog, IcmpErrors, LogFile, LogFolder,
    Model, OnRuleRemoval, Rotate, Settings, Timeouts, Traffic, Uplink, UplinkMode,
};

use taskgate_api::{Change, FieldChange, ObjectChange, ObjectKind};

use super::object::{Named, Object};

/// Compares the settings of the host, by key.
pub(super) fn compare(before: &Model, after: &Model) -> Vec<ObjectChange> {
    let [before, after] = [before, after].map(values);
    let changed = before.into_iter().zip(after).filter(|(was, is)| was != is);
    let change = |((name, before), (_, after)): (Keyed, Keyed)| ObjectChange {
        kind: ObjectKind::Setting,
        change: Change::Changed,
        id: name.to_owned(),
        name: None,
        group: None,
        direction: None,
        fields: vec![FieldChange {
            field: String::from("value"),
            before,
            after,
        }],
    };
    changed.map(change).collect()
}

/// A setting by its key, with its values.
type Keyed = (&'static str, Vec<String>);

fn values(model: &Model) -> Vec<Keyed> {
    let Model {
        account,
        groups: _,
        prefix_lists: _,
        enis: _,
        uplink: _,
        settings,
        flow_logs: _,
        metrics,
        reserved,
    } = model;
    let Settings {
        icmp_errors,
        on_rule_removal,
        exempt,
        unlogged,
        timeouts,
        connections,
        denials,
        attach,
    } = settings;
    let Timeouts {
        tcp_established,
        udp,
        udp_stream,
    } = timeouts;
    let ConnectionLimits { total, floor, per_task } = connections;
    let DenialLimits {
        total: denials_total,
        floor: denials_floor,
    } = denials;
    let icmp_errors = match icmp_errors {
        IcmpErrors::Pmtu => "pmtu",
        IcmpErrors::All => "all",
        IcmpErrors::None => "none",
    };
    let on_rule_removal = match on_rule_removal {
        OnRuleRemoval::Keep => "keep",
        OnRuleRemoval::Cut => "cut",
    };
    let attach = match attach {
        Attach::Auto => "auto",
        Attach::Tcx => "tcx",
        Attach::Clsact => "clsact",
    };
    let one = |text: &str| vec![text.to_owned()];
    let number = |number: u32| vec![number.to_string()];
    vec![
        ("account", one(account)),
        ("icmp-errors", one(icmp_errors)),
        ("on-rule-removal", one(on_rule_removal)),
        ("exempt", list(exempt)),
        ("unlogged", list(unlogged)),
        ("reserved-addresses", addresses(reserved)),
        ("timeouts.tcp-established", number(*tcp_established)),
        ("timeouts.udp", number(*udp)),
        ("timeouts.udp-stream", number(*udp_stream)),
        ("connections.total", number(*total)),
        ("connections.floor", vec![floor_text(*floor)]),
        (
            "connections.per-task",
            vec![per_task.map_or_else(|| String::from("none"), |most| most.to_string())],
        ),
        ("denials.total", number(*denials_total)),
        ("denials.floor", vec![floor_text(*denials_floor)]),
        ("attach", one(attach)),
        ("metrics.listen", metrics.iter().map(ToString::to_string).collect()),
    ]
}

fn list(list: &AddressList) -> Vec<String> {
    match list {
        AddressList::Aws => vec![String::from("aws")],
        AddressList::None => vec![String::from("none")],
        AddressList::List(list) => addresses(list),
    }
}

fn addresses(list: &[IpAddr]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn floor_text(floor: Floor) -> String {
    match floor {
        Floor::Auto => String::from("auto"),
        Floor::Fixed(floor) => floor.to_string(),
    }
}

/// Compares the uplink.
pub(super) fn compare_uplink(before: &Model, after: &Model) -> Option<ObjectChange> {
    let object = |Uplink { device, mode }: &Uplink| {
        let mode = match mode {
            UplinkMode::Routed => "routed",
            UplinkMode::Trunk => "trunk",
        };
        Object::default()
            .field("device", Some(device.as_str()))
            .field("mode", Some(mode))
    };
    let [was, is] = [before, after].map(|model| model.uplink.as_ref());
    let named = Named {
        kind: ObjectKind::Uplink,
        id: is.or(was)?.device.clone(),
        name: None,
    };
    named.change(was.map(object), is.map(object))
}

fn file_of(file: &LogFile) -> Object {
    let LogFile { path, rotate } = file;
    let rotate = rotate.map(|Rotate { size, age, keep }| {
        let size = size.map(|size| format!("size {size}, "));
        let age = age.map(|age| format!("age {age}s, "));
        format!("{}{}keep {keep}", size.unwrap_or_default(), age.unwrap_or_default())
    });
    Object::default()
        .field("destination", Some("file"))
        .field("path", Some(path.display().to_string()))
        .field("rotate", rotate)
}

fn folder_of(folder: &LogFolder) -> Object {
    let LogFolder {
        path,
        id: _,
        account,
        region,
        hive_partitions,
        hourly_partitions,
    } = folder;
    Object::default()
        .field("destination", Some("s3"))
        .field("url", Some(format!("file://{}", path.display())))
        .field("account", Some(account.clone()))
        .field("region", Some(region.clone()))
        .field("hive-partitions", Some(hive_partitions.to_string()))
        .field("hourly-partitions", Some(hourly_partitions.to_string()))
}

/// Compares the flow logs, by destination.
pub(super) fn compare_flow_logs(before: &Model, after: &Model) -> Vec<ObjectChange> {
    let object = |log: &FlowLog| {
        let FlowLog {
            destination,
            format,
            traffic,
            tasks,
            interval,
            nodata,
        } = log;
        let destination = match destination {
            Destination::Stdout => Object::default().field("destination", Some("stdout")),
            Destination::File(file) => file_of(file),
            Destination::Folder(folder) => folder_of(folder),
        };
        let traffic = match traffic {
            Traffic::All => "ALL",
            Traffic::Accept => "ACCEPT",
            Traffic::Reject => "REJECT",
        };
        destination
            .field("format", Some(format.to_string()))
            .field("traffic", Some(traffic))
            .field("tasks", (!tasks.is_empty()).then(|| tasks.join(", ")))
            .field("interval", Some(interval.to_string()))
            .field("nodata", Some(nodata.to_string()))
    };
    let (before, after) = (&before.flow_logs, &after.flow_logs);
    let places = 0..before.len().max(after.len());
    let change = |at: usize| {
        let named = Named {
            kind: ObjectKind::FlowLog,
            id: (at + 1).to_string(),
            name: None,
        };
        named.change(before.get(at).map(object), after.get(at).map(object))
    };
    places.filter_map(change).collect()
}
