//! `taskgate connections`: shows tracked connections as they arrive, a line each.

use std::fmt::Write as _;

use taskgate_analysis::display;
use taskgate_api::{ConnectionPhase, ConnectionsQuery, TrackedConnection};

use super::{
    args::{Connections, Output},
    client::ControlClient,
    error::{Error, Exit},
    output,
};

/// Queries a running taskgate, and shows the answer.
pub(super) fn run(client: &ControlClient, args: &Connections) -> Result<Exit, Error> {
    let Connections {
        task,
        peer,
        port,
        protocol,
        rule,
        direction,
        form,
    } = args;
    let query = ConnectionsQuery {
        task: task.clone(),
        peer: peer.clone(),
        port: *port,
        protocol: protocol.clone(),
        rule: rule.clone(),
        direction: direction.clone(),
    };
    let path = format!("/v1/connections{}", parameters(&query));
    let mut begun = false;
    client.lines(&path, &mut |lines| match form.output {
        Output::Json => output::piece(lines),
        Output::Text => {
            let mut text = if begun { String::new() } else { heading() };
            begun = true;
            for line in lines.lines() {
                let conn: TrackedConnection = serde_json::from_str(line).map_err(std::io::Error::from)?;
                text.push_str(&row(&conn));
            }
            output::piece(&text)
        }
    })?;
    Ok(Exit::Ok)
}

/// A query as the parameters of a URL.
fn parameters(query: &ConnectionsQuery) -> String {
    let ConnectionsQuery {
        task,
        peer,
        port,
        protocol,
        rule,
        direction,
    } = query;
    let port = port.map(|port| port.to_string());
    let named = [
        ("task", task),
        ("peer", peer),
        ("port", &port),
        ("protocol", protocol),
        ("rule", rule),
        ("direction", direction),
    ];
    let mut text = String::new();
    for (name, value) in named
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
    {
        let sign = if text.is_empty() { '?' } else { '&' };
        write!(text, "{sign}{name}=").ok();
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                // RFC 3986, 2.1.
                byte => write!(text, "%{byte:02X}").unwrap_or_default(),
            }
        }
    }
    text
}

/// Rows are shown before later ones are known, so columns have a fixed width that suits most values.
fn columns(of: [&str; 10]) -> String {
    let [task, direction, protocol, local, peer, state, age, idle, traffic, rule] = of;
    format!(
        "{task:<16} {direction:<8} {protocol:<8} {local:<21} {peer:<21} {state:<11} {age:>5} {idle:>5}  {traffic:<25} {rule}\n"
    )
}

fn heading() -> String {
    columns([
        "TASK",
        "OPENED",
        "PROTOCOL",
        "LOCAL",
        "PEER",
        "STATE",
        "AGE",
        "IDLE",
        "SENT, RECEIVED",
        "RULE",
    ])
}

fn row(conn: &TrackedConnection) -> String {
    let end = |address: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let protocol = match (conn.icmp_type, conn.icmp_code) {
        (Some(kind), Some(code)) => format!("{} {kind}/{code}", conn.protocol),
        _ => conn.protocol.clone(),
    };
    let bytes = |count: u64| display::bytes(usize::try_from(count).unwrap_or(usize::MAX));
    let rule = conn.rule.as_ref().map_or_else(
        || String::from("never filtered"),
        |rule| {
            if rule.rule.starts_with(&format!("{}/", rule.group_name)) {
                rule.rule.clone()
            } else {
                format!("{} of {}", rule.rule, rule.group_name)
            }
        },
    );
    let (age, idle) = (span(conn.age), span(conn.idle));
    columns([
        conn.task.as_deref().or(conn.eni.as_deref()).unwrap_or("-"),
        &conn.direction,
        &protocol,
        &end(conn.local, conn.local_port),
        &end(conn.peer, conn.peer_port),
        phase(conn.state),
        &age,
        &idle,
        &format!("{}, {}", bytes(conn.egress.bytes), bytes(conn.ingress.bytes)),
        &rule,
    ])
}

const fn phase(phase: ConnectionPhase) -> &'static str {
    match phase {
        ConnectionPhase::HalfOpen => "half-open",
        ConnectionPhase::Established => "established",
        ConnectionPhase::HalfClosed => "half-closed",
        ConnectionPhase::Closed => "closed",
        ConnectionPhase::Unreplied => "unreplied",
        ConnectionPhase::Replied => "replied",
        ConnectionPhase::Stream => "stream",
        ConnectionPhase::Over => "over",
    }
}

/// Seconds in the largest unit that they fill.
fn span(seconds: u32) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_part_of_an_address() {
        let query = ConnectionsQuery {
            task: Some(String::from("web 1&2")),
            peer: Some(String::from("2001:db8::/32")),
            port: Some(443),
            ..ConnectionsQuery::default()
        };
        assert_eq!(
            parameters(&query),
            "?task=web%201%262&peer=2001%3Adb8%3A%3A%2F32&port=443"
        );
        assert_eq!(parameters(&ConnectionsQuery::default()), "");
    }

    #[test]
    fn a_span_has_one_unit() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86_400].map(span),
            ["0s", "59s", "1m", "59m", "1h", "1d"]
        );
    }
}
