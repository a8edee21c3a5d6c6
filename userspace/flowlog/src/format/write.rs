//! Values as words and as JSON, without an allocation.

use std::{fmt::Write as _, net::IpAddr};

use bytes::BytesMut;

use super::value::FieldValue;

/// Appends a value as one word.
pub(super) fn word(to: &mut BytesMut, value: &FieldValue<'_>) {
    match value {
        FieldValue::Absent | FieldValue::Labels([]) => to.extend_from_slice(b"-"),
        FieldValue::Word(word) => to.extend_from_slice(word.as_bytes()),
        FieldValue::Label(label) => to.extend_from_slice(label.word().as_bytes()),
        FieldValue::Labels(labels) => {
            for (at, label) in labels.iter().enumerate() {
                to.extend_from_slice(if at == 0 { b"" } else { b"," });
                to.extend_from_slice(label.word().as_bytes());
            }
        }
        FieldValue::Number(number) => decimal(to, *number),
        FieldValue::Address(address) => self::address(to, *address),
        FieldValue::Time(millis) => time(to, *millis),
        FieldValue::Bool(value) => to.extend_from_slice(if *value { b"true" } else { b"false" }),
        FieldValue::Reasons(reasons) => {
            for (at, reason) in reasons.iter().enumerate() {
                to.extend_from_slice(if at == 0 { b"" } else { b"," });
                to.extend_from_slice(reason.name().as_bytes());
            }
        }
    }
}

/// Appends a value of JSON.
pub(super) fn json(to: &mut BytesMut, value: &FieldValue<'_>) {
    match value {
        FieldValue::Absent => to.extend_from_slice(b"null"),
        FieldValue::Label(label) => label.write_json(to),
        FieldValue::Labels(labels) => {
            to.extend_from_slice(b"[");
            for (at, label) in labels.iter().enumerate() {
                to.extend_from_slice(if at == 0 { b"" } else { b"," });
                label.write_json(to);
            }
            to.extend_from_slice(b"]");
        }
        FieldValue::Word(_) | FieldValue::Address(_) | FieldValue::Reasons(_) => {
            to.extend_from_slice(b"\"");
            word(to, value);
            to.extend_from_slice(b"\"");
        }
        FieldValue::Number(_) | FieldValue::Time(_) | FieldValue::Bool(_) => word(to, value),
    }
}

fn decimal(to: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

fn address(to: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                to.extend_from_slice(if at == 0 { b"" } else { b"." });
                decimal(to, octet.into());
            }
        }
        IpAddr::V6(address) => {
            // `BytesMut` fails only beyond the size of the address space.
            if write!(to, "{address}").is_err() {
                tracing::error!("no memory for a flow record");
            }
        }
    }
}

/// Seconds with milliseconds.
fn time(to: &mut BytesMut, millis: u64) {
    decimal(to, millis / 1000);
    to.extend_from_slice(b".");
    let rest = millis % 1000;
    to.extend_from_slice(&[rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}
