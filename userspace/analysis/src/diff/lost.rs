//! Lost connections as readable text.

use taskgate_api::{ConnectionCounts, ConnectionOutcome, ConnectionsDiff, LostConnections};

/// A line for each group of connections, without line ending: `-` for those that end, `!` for those that go on.
pub fn connection_lines(diff: &ConnectionsDiff) -> impl Iterator<Item = String> {
    diff.without_rule.iter().map(line)
}

/// `of 120 live connections 3 are cut, 1 go on without a rule`.
pub fn connections_text(counts: &ConnectionCounts) -> String {
    let ConnectionCounts { live, cut, kept, .. } = counts;
    format!("of {live} live connections {cut} are cut, {kept} go on without a rule")
}

fn line(lost: &LostConnections) -> String {
    let LostConnections {
        outcome,
        reason,
        task,
        eni,
        direction,
        protocol,
        port,
        icmp,
        admitted_by,
        untracked,
        already,
        connections,
        peers,
        more_peers,
    } = lost;
    let (sign, word) = match outcome {
        ConnectionOutcome::Cut => ('-', "cut"),
        ConnectionOutcome::Kept => ('!', "kept"),
    };
    let whose = task.as_ref().unwrap_or(eni);
    let what = match (port, icmp) {
        (Some(port), _) => format!("{protocol} port {port}"),
        (None, Some((kind, code))) => format!("{protocol} type {kind} code {code}"),
        (None, None) => protocol.clone(),
    };
    let way = if direction == "ingress" { "from" } else { "to" };
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let peers = peers.join(", ");
    let more = if *more_peers { " and others" } else { "" };
    let by = admitted_by.as_ref().map_or_else(
        || String::from("never filtered so far"),
        |rule| format!("let in by {} of {}", rule.rule, rule.group_name),
    );
    let untracked = if *untracked { ", untracked" } else { "" };
    let already = if *already { ", without a rule already" } else { "" };
    format!(
        "{sign} {word} {connections}: {direction} {what} of {whose} {way} {peers}{more}: {reason}; {by}{untracked}{already}"
    )
}
