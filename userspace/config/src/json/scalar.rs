//! Numbers and strings as JSON writes them.

/// Whether a word is a number as JSON writes it.
pub(super) fn is_number(word: &[u8]) -> bool {
    let mut rest = word.strip_prefix(b"-").unwrap_or(word);
    let digits = |rest: &mut &[u8]| {
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let found = &rest[..length];
        *rest = &rest[length..];
        found.len()
    };
    let leading_zero = rest.first() == Some(&b'0');
    match digits(&mut rest) {
        0 => return false,
        1 => {}
        _ if leading_zero => return false,
        _ => {}
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = fraction;
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        rest = exponent
            .strip_prefix(b"+")
            .or_else(|| exponent.strip_prefix(b"-"))
            .unwrap_or(exponent);
        if digits(&mut rest) == 0 {
            return false;
        }
    }
    rest.is_empty()
}

/// The text of a string with escapes; `None` for an escape that JSON does not have, or half a surrogate pair.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        said.push_str(&rest[..at]);
        let escape = *rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        said.push(match escape {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = four_digits(&mut rest)?;
                if let Some(character) = char::from_u32(first) {
                    character
                } else {
                    rest = rest.strip_prefix("\\u")?;
                    let second = four_digits(&mut rest)?;
                    let pair = [first as u16, second as u16];
                    char::decode_utf16(pair).next()?.ok()?
                }
            }
            _ => return None,
        });
    }
    said.push_str(rest);
    Some(said)
}

fn four_digits(rest: &mut &str) -> Option<u32> {
    let digits = rest
        .get(..4)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    *rest = &rest[4..];
    u32::from_str_radix(digits, 16).ok()
}
