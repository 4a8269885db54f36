//! Messages in JSON, as grpc-gateway maps them: etcd's names, bytes in base64, numbers of 64 bits as text, enumerations by
//! name. What has its default is left out. Names may be in camel case, too, when they are read; unknown ones are passed over.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};

/// A message, field by field.
pub(crate) trait Fields: Default {
    /// Reads a field; one that is not known is passed over.
    fn read_field(&mut self, name: &str, value: Value) -> Result<(), String>;

    fn write_fields(&self, to: &mut Map<String, Value>);
}

/// What a field may be.
pub(crate) trait Field: Sized {
    fn read(name: &str, value: Value) -> Result<Self, String>;

    /// Nothing, if it is the default.
    fn write(&self, name: &str) -> Option<Value>;
}

/// A message from JSON.
pub(crate) fn read<M: Fields>(value: Value) -> Result<M, String> {
    let Value::Object(fields) = value else { return Err(format!("{} is no object", shown(&value))) };
    let mut message = M::default();
    // What is null is not there.
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        message.read_field(&name, value)?;
    }
    Ok(message)
}

/// A message as JSON.
pub(crate) fn write<M: Fields>(message: &M) -> Value {
    let mut fields = Map::new();
    message.write_fields(&mut fields);
    Value::Object(fields)
}

/// The name of a field, which Rust may not let stand plainly.
pub(crate) fn name(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Whether JSON names this field: as it is called, or in camel case.
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

/// The names of an enumeration's numbers, by the field that has it. No two fields of one name have different ones.
fn names(field: &str) -> &'static [&'static str] {
    match name_of(field) {
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

fn name_of(field: &str) -> &str {
    field.strip_prefix("r#").unwrap_or(field)
}

fn wrong(name: &str, value: &Value, wanted: &str) -> String {
    format!("{} = {}: it must be {wanted}", name_of(name), shown(value))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(100).collect()
}

impl Field for Bytes {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        let decoded = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        decoded.map(Self::from).ok_or_else(|| wrong(name, &value, "bytes in base64"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        (!self.is_empty()).then(|| BASE64_STANDARD.encode(self).into())
    }
}

impl Field for String {
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

impl Field for bool {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong(name, &value, "true or false"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
}

/// A number of 64 bits, which is text in JSON: not all who read JSON have so many.
macro_rules! long {
    ($type:ty) => {
        impl Field for $type {
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

impl Field for u32 {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        u64::read(name, value.clone())?.try_into().map_err(|_| wrong(name, &value, "a number of 32 bits"))
    }

    fn write(&self, _: &str) -> Option<Value> {
        (*self != 0).then(|| (*self).into())
    }
}

/// All of 32 bits with a sign are enumerations.
impl Field for i32 {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        let number = match &value {
            Value::String(text) => names(name).iter().position(|known| known == text).and_then(|at| at.try_into().ok()),
            Value::Number(number) => number.as_i64().and_then(|number| number.try_into().ok()),
            _ => None,
        };
        number.ok_or_else(|| wrong(name, &value, &format!("one of {}", names(name).join(", "))))
    }

    fn write(&self, name: &str) -> Option<Value> {
        let known = usize::try_from(*self).ok().and_then(|at| names(name).get(at));
        (*self != 0).then(|| known.map_or_else(|| (*self).into(), |name| (*name).into()))
    }
}

impl<M: Fields> Field for M {
    fn read(_: &str, value: Value) -> Result<Self, String> {
        read(value)
    }

    fn write(&self, _: &str) -> Option<Value> {
        Some(write(self))
    }
}

impl<T: Field> Field for Option<T> {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        T::read(name, value).map(Some)
    }

    fn write(&self, name: &str) -> Option<Value> {
        self.as_ref().and_then(|value| value.write(name))
    }
}

impl<T: Field + Default> Field for Vec<T> {
    fn read(name: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.into_iter().map(|item| T::read(name, item)).collect(),
            other => Err(wrong(name, &other, "a list")),
        }
    }

    fn write(&self, name: &str) -> Option<Value> {
        // An item is not left out, whatever it is.
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
        // Of a choice that is written by nobody but clients, 0 is left out as well: it has to be said.
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
