//! Reading the query of a request.

use std::str::FromStr;

use axum::{extract::Query, http::Uri};
use broadcast::config::quote;
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The values of the parameters `known`, in that order. A query may have no other parameter, and none twice.
///
/// ```
/// let uri = "/v1/locks?prefix=jobs%2F&limit=10".parse().expect("a URI");
/// let [prefix, limit] = broadcast_gateway::read_query(&uri, ["prefix", "limit"]).expect("it has no other parameters");
/// assert_eq!((prefix.as_deref(), limit.as_deref()), (Some("jobs/"), Some("10")));
/// ```
///
/// # Errors
///
/// The response to give, 400, if the query has anything else.
pub fn read<const N: usize>(uri: &Uri, known: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let query = uri.query().unwrap_or_default();
    // Otherwise U+FFFD would stand for what is not UTF-8.
    if percent_decode_str(query).decode_utf8().is_err() {
        let query = quote(query);
        return Err(Problem::bad_request(format_args!(
            "the query {query} is not text in UTF-8; percent-encode UTF-8, as %C3%A4 for ä"
        )));
    }
    let Query(asked) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
        let query = quote(query);
        Problem::bad_request(format_args!("the query {query} cannot be read; write NAME=VALUE, with & between them"))
    })?;
    let mut values = [const { None }; N];
    for (name, value) in asked {
        let Some(index) = known.iter().position(|known| *known == name) else {
            let (name, known) = (quote(&name), known.join(", "));
            return Err(Problem::bad_request(format_args!("{name} is not a parameter here; those there are: {known}")));
        };
        if values[index].replace(value).is_some() {
            return Err(Problem::bad_request(format_args!("{name} is given more than once; give it once")));
        }
    }
    Ok(values)
}

/// Reads a number; `expected` says what it is and what to write, for the problem.
///
/// # Errors
///
/// The response to give, 400, if it is not a number.
pub fn parse_number<T: FromStr>(name: &str, value: Option<String>, expected: &str) -> Result<Option<T>, Problem> {
    let number = |text: String| {
        let not = |_| Problem::bad_request(format_args!("{name} = {}: not {expected}", quote(&text)));
        text.parse().map_err(not)
    };
    value.map(number).transpose()
}

/// Reads a number of messages.
pub(super) fn parse_message_count(name: &str, value: Option<String>) -> Result<Option<usize>, Problem> {
    parse_number(name, value, &format!("a number of messages; write one like 10, at most {}", usize::MAX))
}

/// Checks that a request has no query.
///
/// # Errors
///
/// The response to give, 400, if it has one.
pub fn reject_any(uri: &Uri) -> Result<(), Problem> {
    match uri.query().unwrap_or_default() {
        "" => Ok(()),
        query => Err(Problem::bad_request(format_args!(
            "{} takes no parameters, but was asked with {}",
            quote(uri.path()),
            quote(query)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        let uri = format!("/v1/messages?{query}").parse().expect("a URI");
        let read = read(&uri, ["key", "last"]).and_then(|[_, last]| parse_message_count("last", last));
        read.expect_err("this cannot be").body()
    }

    #[test]
    fn what_is_asked_is_read_by_name() {
        let uri = "/v1/messages?last=7&key=a%20b+c%26%C3%a4%".parse().expect("a URI");
        let [key, last, from] = read(&uri, ["key", "last", "from"]).expect("it can be");
        assert_eq!((key.as_deref(), from), (Some("a b c&ä%"), None));
        assert_eq!(parse_message_count("last", last).expect("it is one"), Some(7));
        assert_eq!(parse_message_count("last", None).expect("none"), None);
        assert_eq!(read(&"/v1/messages".parse().expect("a URI"), ["key"]).expect("it can be"), [None]);
    }

    #[test]
    fn a_problem_names_parameter_value_and_what_is_expected() {
        for (query, problem) in [
            ("last=x", r#"last = \"x\": not a number of messages; write one like 10, at most 18446744073709551615"#),
            ("last=", r#"last = \"\": not a number"#),
            ("last=-1", r#"last = \"-1\": not a number"#),
            ("last=99999999999999999999", r#"last = \"99999999999999999999\": not a number"#),
            ("colour=x", r#"\"colour\" is not a parameter here; those there are: key, last"#),
            ("last=1&last=1", "last is given more than once; give it once"),
            ("key=%00&Key", r#"\"Key\" is not a parameter here"#),
            ("key=%ff", r#"the query \"key=%ff\" is not text in UTF-8; percent-encode UTF-8, as %C3%A4 for ä"#),
            ("key=%C3&from=%A4", r#"the query \"key=%C3&from=%A4\" is not text in UTF-8"#),
        ] {
            let body = refused(query);
            assert!(body.contains(&format!(r#""detail":"{problem}"#)), "{query}: {body}");
        }
        let long = refused(&format!("last={}", "9".repeat(50_000)));
        assert!(long.contains("… (50000 bytes): not a number") && long.len() < 500, "{long}");
    }
}
