//! Parsing of single values, the same in every form: protocols, ports, addresses, CIDRs, ids and names.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use taskgate_model::{IcmpMatch, Ports, Protocol, protocol_number};

use super::problem::Diagnostic;

/// The id of a native object without one: `KIND-` and the first 17 hex digits of SHA-256 over `KIND:NAME`.
///
/// `kind` is `sg`, `pl`, `eni`, or `fl` for a flow log, whose name is its URL. The same name gives the same id on every
/// host.
pub fn derived_id(kind: &str, name: &str) -> String {
    const DIGITS: usize = 17;
    let digest = Sha256::digest(format!("{kind}:{name}"));
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let hex: String = nibbles
        .take(DIGITS)
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect();
    format!("{kind}-{hex}")
}

/// The region in an ARN: `eu-west-1` in `arn:aws:ecs:eu-west-1:111122223333:task/prod/0123`.
pub(super) fn region_of_arn(arn: &str) -> Option<String> {
    let region = arn.strip_prefix("arn:")?.split(':').nth(2)?;
    (!region.is_empty()).then(|| region.to_owned())
}

/// A protocol by name or number, before its ports are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProtocolName {
    All,
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
    Number(u8),
}

impl ProtocolName {
    /// The whole protocol: all ports, or all types and codes.
    pub(super) fn whole(self) -> Protocol {
        match self {
            Self::All => Protocol::All,
            Self::Tcp => Protocol::Tcp(Ports::ALL),
            Self::Udp => Protocol::Udp(Ports::ALL),
            Self::Icmp => Protocol::Icmp(IcmpMatch::All),
            Self::Icmpv6 => Protocol::Icmpv6(IcmpMatch::All),
            Self::Number(number) => Protocol::Number(number),
        }
    }

    /// Whether it has ports.
    pub(super) fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether it has types and codes.
    pub(super) fn has_types(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }
}

/// A protocol's name or IANA number in the AWS form, where four protocols have names.
pub(super) fn aws_protocol(text: &str) -> Result<ProtocolName, Diagnostic> {
    let named = |number: &u8| matches!(number, 1 | 6 | 17 | 58);
    protocol_by(text, || protocol_number(text).filter(named)).ok_or_else(|| {
        let hint = "write `tcp`, `udp`, `icmp`, `icmpv6`, `-1` or a number from 0 to 255";
        Diagnostic::new(format!("`{text}` is no protocol"), hint)
    })
}

/// A protocol's name or IANA number in the native form.
pub(super) fn protocol(text: &str) -> Result<ProtocolName, Diagnostic> {
    protocol_by(text, || protocol_number(text)).ok_or_else(|| {
        let hint =
            "write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255";
        Diagnostic::new(format!("`{text}` is no protocol"), hint)
    })
}

fn protocol_by(text: &str, number: impl FnOnce() -> Option<u8>) -> Option<ProtocolName> {
    if text == "-1" || text.eq_ignore_ascii_case("all") {
        return Some(ProtocolName::All);
    }
    Some(match number().or_else(|| text.parse().ok())? {
        1 => ProtocolName::Icmp,
        6 => ProtocolName::Tcp,
        17 => ProtocolName::Udp,
        58 => ProtocolName::Icmpv6,
        number => ProtocolName::Number(number),
    })
}

/// `443` or `8000-8100`.
pub(super) fn ports(text: &str) -> Result<Ports, Diagnostic> {
    let hint = "write a port from 0 to 65535, or a range such as `8000-8100`";
    let port = |end: &str| end.trim().parse::<u16>().ok();
    let ends = match text.split_once('-') {
        Some((from, to)) => (port(from), port(to)),
        None => (port(text), port(text)),
    };
    let (Some(from), Some(to)) = ends else {
        return Err(Diagnostic::new(
            format!("`{text}` is no port and no range of ports"),
            hint,
        ));
    };
    if from > to {
        let message = format!("the range `{text}` ends before it begins");
        return Err(Diagnostic::new(message, format!("write `{to}-{from}`")));
    }
    Ok(Ports { from, to })
}

/// A CIDR with host bits cleared, as on AWS; a plain address is the CIDR of one host.
pub(super) fn cidr(text: &str) -> Result<IpNet, Diagnostic> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(Diagnostic::new(
            format!("`{text}` is no address and no CIDR"),
            "write one such as `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`",
        ));
    };
    let (family, longest) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
    let length = match length {
        None => longest,
        Some(digits) => digits.parse().ok().filter(|length| *length <= longest).ok_or_else(|| {
            let message = format!("`{text}` has the prefix length `{digits}`");
            Diagnostic::new(message, format!("{family} prefix lengths go from 0 to {longest}"))
        })?,
    };
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|error| {
        Diagnostic::new(
            format!("`{text}` is no CIDR: {error}"),
            "write one such as `10.0.0.0/8`",
        )
    })
}

/// An address that an ENI can have.
pub(super) fn own_address(text: &str) -> Result<IpAddr, Diagnostic> {
    let address = any_address(text)?;
    let cannot = |why: &str| {
        Err(Diagnostic::new(
            format!("`{text}` is {why}"),
            "write an address that an ENI can have",
        ))
    };
    match address {
        _ if address.is_unspecified() => cannot("the unspecified address"),
        _ if address.is_loopback() => cannot("a loopback address"),
        _ if address.is_multicast() => cannot("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => cannot("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => cannot("a link-local address, which a task has by itself"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => cannot("an IPv4 address written as IPv6"),
        _ => Ok(address),
    }
}

/// Any address.
pub(super) fn any_address(text: &str) -> Result<IpAddr, Diagnostic> {
    text.parse().ok().ok_or_else(|| {
        let hint = "write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length";
        Diagnostic::new(format!("`{text}` is no address"), hint)
    })
}

/// An id such as `eni-0a1b`; `prefix` is `eni-`.
pub(super) fn id(text: &str, prefix: &str) -> Result<String, Diagnostic> {
    let rest = text.strip_prefix(prefix).unwrap_or_default();
    if !rest.is_empty()
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return Ok(text.to_owned());
    }
    let hint = format!("write `{prefix}` and lower-case letters or digits, such as `{prefix}0a1b2c3d4e5f60718`");
    Err(Diagnostic::new(format!("`{text}` is no id"), hint))
}

/// A group's or prefix list's name: 1 to 255 characters, and not in the form of an id; `prefix` is `sg-` or `pl-`.
pub(super) fn name(text: &str, prefix: &str) -> Result<String, Diagnostic> {
    let name = text.trim();
    let hint = format!("write 1 to 255 characters that do not begin with `{prefix}`");
    if name.is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(Diagnostic::new(
            "the name is empty, too long, or has control characters",
            hint,
        ));
    }
    if name.to_ascii_lowercase().starts_with(prefix) {
        return Err(Diagnostic::new(format!("the name `{name}` reads as an id"), hint));
    }
    Ok(name.to_owned())
}

/// A task's name: not in the form of an address or an ENI id, since users refer to a task by all three.
pub(super) fn task_name(text: &str) -> Result<String, Diagnostic> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let hint = "write 1 to 64 letters, digits, `-`, `_` and `.`";
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err(Diagnostic::new(format!("`{text}` cannot be a task's name"), hint));
    }
    if text.to_ascii_lowercase().starts_with("eni-") || text.parse::<IpAddr>().is_ok() {
        return Err(Diagnostic::new(
            format!("the name `{text}` reads as an ENI id or an address"),
            hint,
        ));
    }
    Ok(text.to_owned())
}

/// A network link's name, by the kernel's rules.
pub(super) fn link_name(text: &str) -> Result<String, Diagnostic> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if matches!(text, "" | "." | "..") || text.len() > 15 || !text.chars().all(allowed) {
        let hint = "a link's name has 1 to 15 bytes, no space, no `/` and no `:`";
        return Err(Diagnostic::new(format!("`{text}` cannot be a link's name"), hint));
    }
    Ok(text.to_owned())
}

/// A loopback address with a port.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, Diagnostic> {
    let hint =
        "write a loopback address and a port, as 127.0.0.1:9477 or [::1]:9477: whoever is on this host may read there";
    let address: SocketAddr = text
        .parse()
        .map_err(|_error| Diagnostic::new(format!("`{text}` is no address with a port"), hint))?;
    if !address.ip().is_loopback() || address.port() == 0 {
        return Err(Diagnostic::new(format!("nothing is served on `{text}`"), hint));
    }
    Ok(address)
}

/// A network namespace's name: the name of a file in `/run/netns`.
pub(super) fn namespace_name(text: &str) -> Result<String, Diagnostic> {
    let allowed = |c: char| !c.is_control() && c != '/';
    if matches!(text, "" | "." | "..") || text.len() > 255 || !text.chars().all(allowed) {
        let hint = "it is the name of a file in `/run/netns`: 1 to 255 bytes, no `/`";
        return Err(Diagnostic::new(format!("`{text}` cannot be a namespace's name"), hint));
    }
    Ok(text.to_owned())
}

/// A unicast MAC address.
pub(super) fn mac(text: &str) -> Result<[u8; 6], Diagnostic> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let read = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| part.len() == 2);
        part.and_then(|part| u8::from_str_radix(part, 16).ok())
            .map(|value| *byte = value)
            .is_some()
    });
    if !read || parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        let hint = "write six bytes such as `0a:1b:2c:3d:4e:5f`, no multicast address";
        return Err(Diagnostic::new(format!("`{text}` is no link's MAC address"), hint));
    }
    Ok(mac)
}

/// A MAC address in the notation that [`mac`] reads.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An account: twelve digits.
pub(super) fn account(text: &str) -> Result<String, Diagnostic> {
    if is_account(text) {
        return Ok(text.to_owned());
    }
    Err(Diagnostic::new(
        format!("`{text}` is no account"),
        "write twelve digits, such as `123456789012`",
    ))
}

/// Whether `text` is an account: twelve digits.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A rule's protocol and ports in messages.
pub(super) fn protocol_text(protocol: Protocol) -> String {
    let ports = |name: &str, ports: Ports| match (ports, ports.from == ports.to) {
        (Ports::ALL, _) => name.to_owned(),
        (Ports { from, .. }, true) => format!("{name} {from}"),
        (Ports { from, to }, false) => format!("{name} {from}-{to}"),
    };
    let icmp = |name: &str, icmp: IcmpMatch| match icmp {
        IcmpMatch::All => name.to_owned(),
        IcmpMatch::Type(kind) => format!("{name} type {kind}"),
        IcmpMatch::TypeCode(kind, code) => format!("{name} type {kind} code {code}"),
    };
    match protocol {
        Protocol::All => String::from("all"),
        Protocol::Tcp(range) => ports("tcp", range),
        Protocol::Udp(range) => ports("udp", range),
        Protocol::Icmp(which) => icmp("icmp", which),
        Protocol::Icmpv6(which) => icmp("icmpv6", which),
        Protocol::Number(number) => taskgate_model::protocol_text(number),
    }
}
