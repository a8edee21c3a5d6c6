//! Names and ids as records write them.

use std::fmt::Write as _;

use bytes::BytesMut;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name or an id. Its two written forms are computed once, as a label is written in many records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    raw: Box<str>,
    /// The form for a line of words, if it differs from `raw`.
    word: Option<Box<str>>,
    /// The form for JSON, with quotes, if it differs from `raw` in quotes.
    json: Option<Box<str>>,
}

impl Label {
    /// A label of any text.
    pub fn new(raw: &str) -> Self {
        let json = serde_json::to_string(raw).unwrap_or_default();
        Self {
            word: word_of(raw).map(Into::into),
            json: (json.len() != raw.len() + 2).then(|| json.into()),
            raw: raw.into(),
        }
    }

    /// The original text.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// One word of printable ASCII: anything else in it is percent-encoded UTF-8, as AWS writes tags.
    pub fn word(&self) -> &str {
        self.word.as_deref().unwrap_or(&self.raw)
    }

    /// Appends the label as a JSON string.
    pub(super) fn write_json(&self, to: &mut BytesMut) {
        if let Some(json) = &self.json {
            to.extend_from_slice(json.as_bytes());
        } else {
            to.extend_from_slice(b"\"");
            to.extend_from_slice(self.raw.as_bytes());
            to.extend_from_slice(b"\"");
        }
    }
}

/// The word for a text that can't be written as it is: an empty text, a lone dash (which means "no value"), or a text with
/// characters that are no printable ASCII, a percent sign or a comma (the separator of lists). `None`: the text is a word.
fn word_of(raw: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b',');
    match raw {
        "" => return Some(String::from("-")),
        "-" => return Some(String::from("%2D")),
        _ if raw.bytes().all(plain) => return None,
        _ => {}
    }
    let mut word = String::with_capacity(raw.len() + 8);
    for byte in raw.bytes() {
        if plain(byte) {
            word.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(word, "%{byte:02X}");
        }
    }
    Some(word)
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|raw| Self::new(&raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_one_word_and_one_string() {
        for (raw, word, json) in [
            ("eni-1", "eni-1", "\"eni-1\""),
            ("web/ingress/3", "web/ingress/3", "\"web/ingress/3\""),
            ("arn:aws:ecs:x", "arn:aws:ecs:x", "\"arn:aws:ecs:x\""),
            ("my web", "my%20web", "\"my web\""),
            ("a,b", "a%2Cb", "\"a,b\""),
            ("100%", "100%25", "\"100%\""),
            ("größe", "gr%C3%B6%C3%9Fe", "\"größe\""),
            ("a\"b\\c\n", "a\"b\\c%0A", "\"a\\\"b\\\\c\\n\""),
            ("", "-", "\"\""),
            ("-", "%2D", "\"-\""),
        ] {
            let label = Label::new(raw);
            let mut written = BytesMut::new();
            label.write_json(&mut written);
            assert_eq!((label.word(), &*written), (word, json.as_bytes()), "{raw:?}");
            assert_eq!(label.raw(), raw);
        }
    }
}
