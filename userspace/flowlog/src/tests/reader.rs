//! A reader as strict as the strictest in use: Vector splits at one space and wants integers, Logstash wants digits in
//! the account, CloudWatch's rules count positions, flowlogs-reader wants times on NODATA lines too.

use std::net::IpAddr;

/// The flow's fields in an OK line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowFields {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) protocol: u8,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) action: String,
}

/// A parsed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) account: String,
    pub(super) eni: String,
    /// `None` on NODATA and SKIPDATA.
    pub(super) flow: Option<FlowFields>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) status: String,
}

/// Parses the whole lines of one write.
pub(super) fn read(text: &[u8]) -> Vec<Line> {
    let text = std::str::from_utf8(text).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'), "a line is cut: {text:?}");
    text.split_terminator('\n').map(line).collect()
}

fn line(line: &str) -> Line {
    assert!(
        line.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "not plain: {line:?}"
    );
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!(fields.len(), 14, "fields of {line:?}");
    assert!(fields.iter().all(|field| !field.is_empty()), "two spaces: {line:?}");
    assert_eq!(fields[0], "2", "version of {line:?}");
    let account = fields[1];
    assert!(
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()),
        "account of {line:?}"
    );
    assert!(fields[2].starts_with("eni-"), "interface of {line:?}");
    let (start, end) = (number(fields[10]), number(fields[11]));
    assert!(start <= end, "times of {line:?}");
    let flow = match fields[13] {
        "OK" => {
            assert!(matches!(fields[12], "ACCEPT" | "REJECT"), "action of {line:?}");
            let address = |at: usize| {
                let address: IpAddr = fields[at].parse().expect("an address");
                assert_eq!(address.to_string(), fields[at], "canonical text");
                address
            };
            let small = |at: usize| number(fields[at]).try_into().expect("16 bits");
            Some(FlowFields {
                source: address(3),
                destination: address(4),
                source_port: small(5),
                destination_port: small(6),
                protocol: number(fields[7]).try_into().expect("8 bits"),
                packets: number(fields[8]),
                bytes: number(fields[9]),
                action: fields[12].to_owned(),
            })
        }
        "NODATA" | "SKIPDATA" => {
            assert_eq!(fields[3..10], ["-"; 7], "dashes of {line:?}");
            assert_eq!(fields[12], "-", "action of {line:?}");
            None
        }
        status => panic!("log-status {status} of {line:?}"),
    };
    Line {
        account: account.to_owned(),
        eni: fields[2].to_owned(),
        flow,
        start,
        end,
        status: fields[13].to_owned(),
    }
}

/// An integer without sign, point or leading zero.
fn number(field: &str) -> u64 {
    let value: u64 = field.parse().expect("an integer");
    assert_eq!(value.to_string(), field, "canonical integer");
    value
}
