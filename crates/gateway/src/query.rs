//! What a request asks beside its path.

use axum::{extract::Query, http::Uri};
use broadcast::config::shown;

use super::problem::Problem;

/// The values of these parameters, each where it is asked. Nothing else may be, and nothing twice.
pub(super) fn read<const N: usize>(uri: &Uri, known: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let Query(asked) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
        let query = shown(uri.query().unwrap_or_default());
        Problem::bad_request(format_args!("the query {query} cannot be read; write NAME=VALUE, with & between them"))
    })?;
    let mut values = [const { None }; N];
    for (name, value) in asked {
        let Some(place) = known.iter().position(|known| *known == name) else {
            let (name, known) = (shown(&name), known.join(", "));
            return Err(Problem::bad_request(format_args!("{name} is not a parameter here; those there are: {known}")));
        };
        if values[place].replace(value).is_some() {
            return Err(Problem::bad_request(format_args!("{name} is given more than once; give it once")));
        }
    }
    Ok(values)
}

/// A number of messages.
pub(super) fn number(name: &str, value: Option<String>) -> Result<Option<usize>, Problem> {
    let number = |text: String| {
        text.parse().map_err(|_| {
            let (text, most) = (shown(&text), usize::MAX);
            Problem::bad_request(format_args!(
                "{name} = {text}: not a number of messages; write one like 10, at most {most}"
            ))
        })
    };
    value.map(number).transpose()
}

/// What takes no query is asked without one.
///
/// # Errors
///
/// The answer to give, 400, if there is one.
pub fn none(uri: &Uri) -> Result<(), Problem> {
    match uri.query().unwrap_or_default() {
        "" => Ok(()),
        query => Err(Problem::bad_request(format_args!(
            "{} takes no parameters, but was asked with {}",
            shown(uri.path()),
            shown(query)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        let uri = format!("/v1/messages?{query}").parse().expect("a URI");
        let read = read(&uri, ["key", "last"]).and_then(|[_, last]| number("last", last));
        read.expect_err("this cannot be").body()
    }

    #[test]
    fn what_is_asked_is_read_by_name() {
        let uri = "/v1/messages?last=7&key=a%20b+c%26".parse().expect("a URI");
        let [key, last, from] = read(&uri, ["key", "last", "from"]).expect("it can be");
        assert_eq!((key.as_deref(), from), (Some("a b c&"), None));
        assert_eq!(number("last", last).expect("it is one"), Some(7));
        assert_eq!(number("last", None).expect("none"), None);
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
            ("key=%ff%00&Key", r#"\"Key\" is not a parameter here"#),
        ] {
            let body = refused(query);
            assert!(body.contains(&format!(r#""detail":"{problem}"#)), "{query}: {body}");
        }
        let long = refused(&format!("last={}", "9".repeat(50_000)));
        assert!(long.contains("… (50000 bytes): not a number") && long.len() < 500, "{long}");
    }
}
