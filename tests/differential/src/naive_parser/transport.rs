//! Parses the IP payload, the naive way: ports, messages and the addresses in their options, and the packets that errors
//! quote.

use super::{Body, Hardware, Ip, MALFORMED, REACH, Segment, is_mapped, mac_at, u16_at, v4_at, v6_at};

/// Parses the transport header. Returns the bytes that every segment repeats.
pub(super) fn transport(ip: &mut Ip, packet: &[u8], at: usize, total: usize) -> usize {
    let body = &packet[at..total];
    let v6 = ip.source.is_ipv6();
    let out_of_reach = |bytes: usize| 14 + at + bytes > REACH;
    let mut headers = at;
    ip.body = match (ip.protocol, v6) {
        (6, _) => {
            if body.len() < 20 || out_of_reach(14) {
                MALFORMED
            } else {
                let length = usize::from(body[12] >> 4) * 4;
                headers += length;
                if length < 20 || length > body.len() {
                    MALFORMED
                } else {
                    let segment = Segment {
                        flags: body[13],
                        sequence: u16_at(body, 6),
                        acknowledged: u16_at(body, 10),
                        payload: (body.len() - length) as u32,
                    };
                    ports(body, Some(segment))
                }
            }
        }
        (17, _) if body.len() < 8 || out_of_reach(4) => MALFORMED,
        (17, _) => {
            headers += 8;
            ports(body, None)
        }
        (1, false) | (58, true) => icmp(body, packet, (at, total), v6, &out_of_reach),
        (2, false) | (103, _) if body.len() >= 4 && out_of_reach(2) => MALFORMED,
        (2, false) if body.len() >= 8 && body[0] == 0x11 => Body::IgmpQuery,
        _ => Body::Other,
    };
    ip.router_role = is_router_role(ip, body, packet[7]);
    headers
}

/// Whether a message makes its receivers take the sender for a router. `hops`: IPv6's hop limit.
fn is_router_role(ip: &Ip, body: &[u8], hops: u8) -> bool {
    match (ip.protocol, ip.source.is_ipv6(), &ip.body) {
        (58, true, Body::Icmp { kind, .. }) => match kind {
            130 => hops != 1,
            134 | 137 => hops != 255,
            kind => (151..=153).contains(kind),
        },
        // DVMRP, PIM version 1, router discovery.
        (2, false, Body::Other) if body.len() >= 4 => [0x13, 0x14, 0x30, 0x31, 0x32].contains(&body[0]),
        // Version 2, hello.
        (103, _, Body::Other) if body.len() >= 4 => body[0] == 0x20,
        _ => false,
    }
}

fn ports(body: &[u8], segment: Option<Segment>) -> Body {
    Body::Ports {
        source: u16_at(body, 0),
        destination: u16_at(body, 2),
        flags: segment.map_or(0, |segment| segment.flags),
        segment,
    }
}

fn icmp(
    body: &[u8],
    packet: &[u8],
    (at, total): (usize, usize),
    v6: bool,
    out_of_reach: &dyn Fn(usize) -> bool,
) -> Body {
    if body.len() < 8 || out_of_reach(8) || body[0] == 255 {
        return MALFORMED;
    }
    let (kind, code, identifier) = (body[0], body[1], u16_at(body, 4));
    let is_error = if v6 {
        (1..=4).contains(&kind)
    } else {
        [3, 11, 12].contains(&kind)
    };
    let quoted = if is_error {
        read_quoted(&body[8..], v6, out_of_reach)
    } else {
        None
    };
    let hops = packet[7];
    let bare = packet.len() == total && at == 40;
    match kind {
        131 | 132 if v6 && hops == 1 && body.len() == 24 && out_of_reach(24) => MALFORMED,
        130..=132 | 143 if v6 && hops == 1 => Body::Neighbour {
            kind,
            code,
            // The group of version 1.
            target: (matches!(kind, 131 | 132) && body.len() == 24).then(|| v6_at(body, 8)),
            hardware: Hardware::None,
            router: false,
            // One header in front, and groups alone.
            roomy: kind != 130
                && (packet.len() > total
                    || ![40, 48].contains(&at)
                    || body.len()
                        != if kind == 143 {
                            8 + 20 * usize::from(u16_at(body, 6))
                        } else {
                            24
                        }),
        },
        // A router solicitation names its sender in an option, which must be within the parser's reach.
        133 if v6 && hops == 255 && body.len() <= 24 && out_of_reach(body.len()) && body.len().is_multiple_of(8) => {
            MALFORMED
        }
        133 | 134 | 137 if v6 && hops == 255 => Body::Neighbour {
            kind,
            code,
            target: None,
            hardware: if kind == 133 {
                hardware(&body[8..])
            } else {
                Hardware::None
            },
            router: false,
            roomy: kind == 133 && !(bare && are_ordinary(&body[8..])),
        },
        135 | 136 if v6 && hops == 255 => {
            if body.len() < 24 || out_of_reach(24) {
                MALFORMED
            } else {
                let target = v6_at(body, 8);
                if is_mapped(target) {
                    return MALFORMED;
                }
                if body.len() <= 40 && body.len().is_multiple_of(8) && out_of_reach(body.len()) {
                    return MALFORMED;
                }
                Body::Neighbour {
                    kind,
                    code,
                    target: Some(target),
                    hardware: hardware(&body[24..]),
                    router: kind == 136 && body[4] >> 7 == 1,
                    roomy: !(bare && are_ordinary(&body[24..])),
                }
            }
        }
        _ => Body::Icmp {
            kind,
            code,
            identifier,
            quoted: quoted.map(Box::new),
        },
    }
}

/// Whether options are those that hosts send: at most two of eight bytes, with addresses or a nonce.
fn are_ordinary(options: &[u8]) -> bool {
    [0, 8, 16].contains(&options.len())
        && options
            .chunks(8)
            .all(|option| [1, 2, 14].contains(&option[0]) && option[1] == 1)
}

fn hardware(options: &[u8]) -> Hardware {
    if options.len() > 16 || !options.len().is_multiple_of(8) || options.chunks(8).any(|option| option[1] != 1) {
        return Hardware::Unread;
    }
    // Options of types 1 and 2 carry hardware addresses; an all-zero address in the first of them counts as none.
    let mut found: Vec<[u8; 6]> = options
        .chunks(8)
        .filter(|option| [1, 2].contains(&option[0]))
        .map(|option| mac_at(option, 2))
        .collect();
    if found.first() == Some(&[0; 6]) {
        found.remove(0);
    }
    match found[..] {
        [] | [[0, 0, 0, 0, 0, 0]] => Hardware::None,
        [one] => Hardware::Is(one),
        _ => Hardware::Unread,
    }
}

/// Parses the packet that an error quotes; `None` if it cannot belong to a connection.
fn read_quoted(bytes: &[u8], v6: bool, out_of_reach: &dyn Fn(usize) -> bool) -> Option<Ip> {
    let (version, least) = if v6 { (6, 40) } else { (4, 20) };
    if bytes.len() < least || bytes[0] >> 4 != version {
        return None;
    }
    let mut header = if v6 { 40 } else { usize::from(bytes[0] & 15) * 4 };
    let mut protocol = if v6 { bytes[6] } else { bytes[9] };
    let mut offset = if v6 { 0 } else { u16_at(bytes, 6) & 0x1fff };
    // The error's own header lies in between.
    let absent = |to: usize| bytes.len() < to || out_of_reach(8 + to);
    if v6 && protocol == 44 {
        if absent(48) {
            return None;
        }
        (header, protocol, offset) = (48, bytes[40], u16_at(bytes, 42) & !7);
    }
    if header < least || offset != 0 || absent(header + 8) {
        return None;
    }
    let (source, destination) = if v6 {
        (v6_at(bytes, 8), v6_at(bytes, 24))
    } else {
        (v4_at(bytes, 12), v4_at(bytes, 16))
    };
    let transport = &bytes[header..];
    let body = match (protocol, v6) {
        (6 | 17, _) => ports(transport, None),
        (1, false) | (58, true) => Body::Icmp {
            kind: transport[0],
            code: transport[1],
            identifier: u16_at(transport, 4),
            quoted: None,
        },
        _ => Body::Other,
    };
    Some(Ip {
        source,
        destination,
        protocol,
        packets: 0,
        bytes: 0,
        body,
        fragment: None,
        overwritten: false,
        router_role: false,
    })
}
