//! Keys, values and transactions as lines of text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::visible;

/// The bytes of a field: the API has text in `field`, and other bytes in `field_base64`.
pub(super) fn bytes(kv: &Value, field: &str) -> Vec<u8> {
    let base64 = || STANDARD.decode(kv[format!("{field}_base64")].as_str()?).ok();
    kv[field].as_str().map(|text| text.as_bytes().to_vec()).or_else(base64).unwrap_or_default()
}

/// The bytes of a field as text that is safe to print: on one line, with what is not UTF-8 replaced.
pub(in super::super) fn text_field(kv: &Value, field: &str) -> String {
    visible::escaped(&String::from_utf8_lossy(&bytes(kv, field)))
}

/// One line for each key.
pub(super) fn list(kvs: &[Value], keys_only: bool) -> String {
    let line = |kv: &Value| match keys_only {
        true => format!("{}\n", text_field(kv, "key")),
        false => format!("{} = {}\n", text_field(kv, "key"), text_field(kv, "value")),
    };
    kvs.iter().map(line).collect()
}

/// Whether the comparisons of a transaction held, and what each operation did.
pub(super) fn txn(txn: &Value) -> String {
    let held =
        if txn["succeeded"] == Value::Bool(true) { "the comparisons held" } else { "the comparisons did not hold" };
    let mut text = format!("{held}, revision {}\n", txn["revision"]);
    responses(&mut text, txn, "");
    text
}

fn responses(text: &mut String, txn: &Value, indent: &str) {
    for response in txn["responses"].as_array().into_iter().flatten() {
        let Some((name, outcome)) = response.as_object().and_then(|response| response.iter().next()) else { continue };
        let kvs =
            ["kvs", "prev"].iter().find_map(|field| outcome[*field].as_array()).map(Vec::as_slice).unwrap_or_default();
        match &**name {
            "get" => text.push_str(&format!("{indent}get: {} keys\n", outcome["count"])),
            "delete" => text.push_str(&format!("{indent}deleted {}\n", outcome["deleted"])),
            "txn" => {
                text.push_str(&format!(
                    "{indent}txn: {}\n",
                    if outcome["succeeded"] == Value::Bool(true) { "held" } else { "did not hold" }
                ));
                responses(text, outcome, &format!("{indent}  "));
            }
            _ => text.push_str(&format!("{indent}{}\n", visible::escaped(name))),
        }
        for line in list(kvs, false).lines() {
            text.push_str(&format!("{indent}  {line}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_one_line_that_cannot_move_the_cursor() {
        let kvs = [json!({"key": "a\n\u{1b}[2J", "value": "b"}), json!({"key_base64": "/w==", "value_base64": "AA=="})];
        assert_eq!(list(&kvs, false), "a\\n\\u{1b}[2J = b\n\u{fffd} = \\u{0}\n");
        assert_eq!(bytes(&kvs[1], "key"), b"\xff");
    }

    #[test]
    fn a_transaction_tells_what_each_operation_did() {
        let done = json!({"revision": 7, "succeeded": true, "responses": [
            {"put": {"prev": null}}, {"get": {"count": 1, "kvs": [{"key": "a", "value": "1"}]}},
            {"txn": {"succeeded": false, "responses": [{"delete": {"deleted": 1, "prev": []}}]}},
        ]});
        let text = "the comparisons held, revision 7\nput\nget: 1 keys\n  a = 1\ntxn: did not hold\n  deleted 1\n";
        assert_eq!(txn(&done), text);
    }
}
