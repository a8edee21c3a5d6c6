//! Objects as lists of fields, for comparison.

use taskgate_api::{Change, FieldChange, ObjectChange, ObjectKind};

/// A value of a field.
pub(super) struct Value {
    /// The identity of the value: by ids, never by names or positions.
    key: String,
    /// The value as text.
    text: String,
}

impl Value {
    /// A value that is identified by its text.
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            key: text.clone(),
            text,
        }
    }

    /// A value with an identity apart from its text.
    pub(super) fn with_key(key: String, text: String) -> Self {
        Self { key, text }
    }
}

/// An object of one configuration.
#[derive(Default)]
pub(super) struct Object(Vec<(&'static str, Vec<Value>)>);

impl Object {
    /// Adds a field with several values.
    #[must_use]
    pub(super) fn list(mut self, name: &'static str, values: impl IntoIterator<Item = Value>) -> Self {
        self.0.push((name, values.into_iter().collect()));
        self
    }

    /// Adds a field with one value, or none.
    #[must_use]
    pub(super) fn field(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        self.list(name, value.map(Value::new))
    }

    /// Adds a field that is only shown if it is not at its default.
    #[must_use]
    pub(super) fn unusual(self, name: &'static str, is_unusual: bool, word: &'static str) -> Self {
        self.field(name, is_unusual.then_some(word))
    }
}

/// The identifying part of an [`ObjectChange`].
pub(super) struct Named {
    pub(super) kind: ObjectKind,
    pub(super) id: String,
    pub(super) name: Option<String>,
}

impl Named {
    /// The change from one content to another; `None` if nothing changes.
    pub(super) fn change(self, before: Option<Object>, after: Option<Object>) -> Option<ObjectChange> {
        let change = match (&before, &after) {
            (None, None) => return None,
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            (Some(_), Some(_)) => Change::Changed,
        };
        let [before, after] = [before, after].map(|object| object.unwrap_or_default().0);
        let fields = compared(before, after);
        let Self { kind, id, name } = self;
        (change != Change::Changed || !fields.is_empty()).then_some(ObjectChange {
            kind,
            change,
            id,
            name,
            group: None,
            direction: None,
            fields,
        })
    }
}

/// The fields whose values differ, in order. Both objects are of one kind, so they have the same fields, or none.
fn compared(before: Vec<(&'static str, Vec<Value>)>, after: Vec<(&'static str, Vec<Value>)>) -> Vec<FieldChange> {
    let names: Vec<&str> = before.iter().chain(&after).map(|(name, _)| *name).collect();
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    let mut fields = Vec::new();
    for name in names {
        let [was, is] = [&mut before, &mut after].map(|fields| {
            let field = fields.next_if(|(of, _)| *of == name);
            field.map(|(_, values)| values).unwrap_or_default()
        });
        let differ = was.len() != is.len() || was.iter().zip(&is).any(|(was, is)| was.key != is.key);
        if differ {
            let texts = |values: Vec<Value>| values.into_iter().map(|value| value.text).collect();
            fields.push(FieldChange {
                field: name.to_owned(),
                before: texts(was),
                after: texts(is),
            });
        }
    }
    fields
}
