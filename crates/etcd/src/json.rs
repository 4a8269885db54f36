//! Messages in JSON, as grpc-gateway maps them: etcd's names of fields, bytes in base64, numbers of 64 bits as text,
//! enumerations by name. A field that has its default is left out. Reading takes names in camel case, too, and ignores unknown
//! ones.
//!
//! The macro in `messages` implements [`JsonMessage`] for each message; this module implements [`JsonField`] for each type
//! that a field may have.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};

/// A message that JSON can hold.
pub(crate) trait JsonMessage: Default {
    /// Reads a field; ignores one that it does not know.
    fn read_field(&mut self, name: &str, value: Value) -> Result<(), String>;

    fn write_fields(&self, to: &mut Map<String, Value>);
}

/// A type that a field may have.
pub(crate) trait JsonField: Sized {
    fn read(name: &str, value: Value) -> Result<Self, String>;

    /// Writes it; nothing, if it is the default.
    fn write(&self, name: &str) -> Option<Value>;
}

/// Reads a message.
pub(crate) fn read<M: JsonMessage>(value: Value) -> Result<M, String> {
    let Value::Object(fields) = value else { return Err(format!("{} is no object", shortened(&value))) };
    let mut message = M::default();
    // A field that is null counts as absent.
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        message.read_field(&name, value)?;
    }
    Ok(message)
}

/// Writes a message.
pub(crate) fn write<M: JsonMessage>(message: &M) -> Value {
    let mut fields = Map::new();
    message.write_fields(&mut fields);
    Value::Object(fields)
}

/// The name of a field as JSON has it: Rust writes `r#` before words of its own.
pub(crate) fn name(field: &str) -> &str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Whether a name in JSON is that of this field, as it is or in camel case.
pub(crate) fn is_named(field: &'static str, given: &str) -> bool {
    let field = name(field);
    if field == given {
        return true;
    }
    let mut camel = String::with_capacity(field.len());
    let mut words = field.split('_');
    camel.push_str(words.next().unwrap_or_default());
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel == given
}

/// The names of an enumeration's values, by the name of the field: fields of the same name have the same enumeration.
fn enum_names(field: &str) -> &'static [&'static str] {
    match name(field) {
        "sort_order" => &["NONE", "ASCEND", "DESCEND"],
        "sort_target" => &["KEY", "VERSION", "CREATE", "MOD", "VALUE"],
        "result" => &["EQUAL", "GREATER", "LESS", "NOT_EQUAL"],
        "target" => &["VERSION", "CREATE", "MOD", "VALUE", "LEASE"],
        "type" => &["PUT", "DELETE"],
        "filters" => &["NOPUT", "NODELETE"],
        "action" => &["GET", "ACTIVATE", "DEACTIVATE"],
        "alarm" => &["NONE", "NOSPACE", "CORRUPT"],
        _ => &[],
    }
}

fn wrong(field: &str, value: &Value, wanted: &str) -> String {
    format!("{} = {}: it must be {wanted}", name(field), shortened(value))
}

/// A value for an error's text, which is not to be as long as a request.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(100).collect()
}

impl JsonField for Bytes {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        let decoded = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        decoded.map(Self::from).ok_or_else(|| wrong(name, &value, "bytes in base64"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        (!self.is_empty()).then(|| BASE64_STANDARD.encode(self).into())
    }
}

impl JsonField for String {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(name, &other, "text")),
        }
    }

    fn write(&self, _: &str) -> Option<Value> {
        (!self.is_empty()).then(|| self.as_str().into())
    }
}

impl JsonField for bool {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong(name, &value, "true or false"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
}

/// A number of 64 bits is text in JSON: many readers keep no more than 53 bits of a number.
macro_rules! long {
    ($type:ty) => {
        impl JsonField for $type {
            fn read(name: &str, value: Value) -> Result<Self, String> {
                let number = match &value {
                    Value::String(text) => text.parse().ok(),
                    Value::Number(number) => number.to_string().parse().ok(),
                    _ => None,
                };
                number.ok_or_else(|| wrong(name, &value, "a whole number"))
            }

            fn write(&self, _: &str) -> Option<Value> {
                (*self != 0).then(|| self.to_string().into())
            }
        }
    };
}

long!(i64);
long!(u64);

impl JsonField for u32 {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        u64::read(name, value.clone())?.try_into().map_err(|_| wrong(name, &value, "a number of 32 bits"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        (*self != 0).then(|| (*self).into())
    }
}

/// Only enumerations are of this type.
impl JsonField for i32 {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        let number = match &value {
            Value::String(text) => {
                enum_names(name).iter().position(|known| known == text).and_then(|at| at.try_into().ok())
            }
            Value::Number(number) => number.as_i64().and_then(|number| number.try_into().ok()),
            _ => None,
        };
        number.ok_or_else(|| wrong(name, &value, &format!("one of {}", enum_names(name).join(", "))))
    }

    fn write(&self, name: &str) -> Option<Value> {
        let known = usize::try_from(*self).ok().and_then(|at| enum_names(name).get(at));
        (*self != 0).then(|| known.map_or_else(|| (*self).into(), |name| (*name).into()))
    }
}

impl<M: JsonMessage> JsonField for M {
    fn read(_: &str, value: Value) -> Result<Self, String> {
        read(value)
    }

    fn write(&self, _: &str) -> Option<Value> {
        Some(write(self))
    }
}

impl<T: JsonField> JsonField for Option<T> {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        T::read(name, value).map(Some)
    }

    fn write(&self, name: &str) -> Option<Value> {
        self.as_ref().and_then(|value| value.write(name))
    }
}

impl<T: JsonField + Default> JsonField for Vec<T> {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.into_iter().map(|item| T::read(name, item)).collect(),
            other => Err(wrong(name, &other, "a list")),
        }
    }

    fn write(&self, name: &str) -> Option<Value> {
        // In a list, an item that has its default must stay.
        let items = || self.iter().map(|item| item.write(name).unwrap_or_else(|| Value::String(String::new())));
        (!self.is_empty()).then(|| items().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::messages::{Compare, Event, KeyValue, RangeRequest, RequestOp, TxnRequest, WatchResponse};

    #[test]
    fn what_is_written_is_read() {
        let range = RangeRequest {
            key: Bytes::from_static(b"\x00\xff"),
            limit: i64::MIN,
            sort_order: 2,
            sort_target: 4,
            count_only: true,
            ..RangeRequest::default()
        };
        let compare = Compare { result: 3, target: 4, lease: Some(0), key: "k".into(), ..Compare::default() };
        let op = RequestOp { request_range: Some(range), ..RequestOp::default() };
        let txn = TxnRequest { compare: vec![compare], success: vec![op], failure: Vec::new() };
        let mut written = write(&txn);
        assert_eq!(
            written,
            json!({
                "compare": [{"result": "NOT_EQUAL", "target": "LEASE", "key": "aw=="}],
                "success": [{"request_range": {
                    "key": "AP8=", "limit": "-9223372036854775808", "sort_order": "DESCEND", "sort_target": "VALUE",
                    "count_only": true,
                }}],
            })
        );
        // 0 is left out of a `oneof`, too: only clients write one, and they have to name it.
        written["compare"][0]["lease"] = 0.into();
        assert_eq!(read(written), Ok(txn));
    }

    #[test]
    fn names_are_read_in_both_forms_and_unknown_ones_passed_over() {
        for (name, given) in [("prev_kv", "prevKv"), ("max_mod_revision", "maxModRevision"), ("peerURLs", "peerURLs")] {
            assert!(is_named(name, given) && is_named(name, name));
        }
        assert!(!is_named("prev_kv", "prev_Kv") && !is_named("prev_kv", "prevkv"));
        let event: Event =
            read(json!({"type": "DELETE", "prevKv": {"modRevision": "7"}, "x": {}, "kv": null})).expect("it is");
        let prev_kv = Some(KeyValue { mod_revision: 7, ..KeyValue::default() });
        assert_eq!(event, Event { r#type: 1, kv: None, prev_kv });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (value, problem) in [
            (json!([]), "[] is no object"),
            (json!({"kv": 1}), "1 is no object"),
            (json!({"kv": {"version": "x"}}), r#"version = "x": it must be a whole number"#),
            (json!({"kv": {"version": 1.5}}), "version = 1.5: it must be a whole number"),
            (json!({"kv": {"key": "*"}}), r#"key = "*": it must be bytes in base64"#),
            (json!({"type": "GET"}), r#"type = "GET": it must be one of PUT, DELETE"#),
        ] {
            assert_eq!(read::<Event>(value), Err(problem.to_owned()));
        }
        let wrong = read::<WatchResponse>(json!({"created": 1, "events": {}})).expect_err("neither");
        assert_eq!(wrong, "created = 1: it must be true or false");
    }
}
