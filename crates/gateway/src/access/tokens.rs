//! A list of tokens, each with a name and scopes; and its form in a file:
//!
//! ```text
//! # who: what it may do, and its token
//! grafana: read 5pm4MQDKcJcJmNdYBDbVAWzKdrPwnrTM
//! ci: publish,deploy e1P9ZZSdSHckQPbIDwl6VbxzIkfqMAAqAR2I66Ax5rk=
//! ```

use std::{fmt, str::FromStr, sync::Arc};

use super::{Scope, Scopes, Token};

/// The longest name of a token, in bytes.
const MAX_NAME: usize = 64;
/// How many tokens there may be: each is compared with the one that a caller shows.
const MAX_TOKENS: usize = 1000;

/// The audit log's names for callers without a token, and for callers with an unknown one.
pub(crate) const UNAUTHENTICATED_NAMES: [&str; 2] = ["anonymous", "unknown"];

/// The name of a token, for the log. It has no characters that could mislead a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName(pub(super) Arc<str>);

impl FromStr for TokenName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
            return Err(format!("it is not a name; write up to {MAX_NAME} letters, digits, dots, _ and -"));
        }
        if UNAUTHENTICATED_NAMES.contains(&name) {
            return Err(format!("{name} is what the log calls those without a token; choose another name"));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token with its name and scopes.
#[derive(Clone, Debug)]
pub struct NamedToken {
    /// Its name.
    pub name: TokenName,
    /// What it allows.
    pub scopes: Scopes,
    /// The token itself.
    pub token: Token,
}

impl NamedToken {
    /// A token with the [default scopes](Scopes::DEFAULT).
    #[must_use]
    pub fn new(name: TokenName, token: Token) -> Self {
        Self { name, scopes: Scopes::DEFAULT, token }
    }
}

/// A list of at least one token; no two have the same name, or are the same. [`Access::with`](super::Access::with) takes it.
#[derive(Clone, Debug)]
pub struct Tokens(Vec<NamedToken>);

/// Why a list of tokens cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// It is empty.
    #[error("there is no token in it; write one a line, like `ci: read,publish TOKEN`, or do not set it")]
    None,
    /// It has too many.
    #[error("there are {0} tokens; at most {max} are allowed", max = MAX_TOKENS)]
    TooMany(usize),
    /// Two tokens have this name.
    #[error("two tokens are called {0}; give each a name of its own")]
    Name(TokenName),
    /// The tokens with these names are the same.
    #[error("{0} and {1} have the same token; give each one of its own")]
    Same(TokenName, TokenName),
    /// A line of a file does not have the form of a token.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong, and what to do. It does not show the token.
        problem: String,
    },
}

impl Tokens {
    /// Checks a list of tokens.
    ///
    /// # Errors
    ///
    /// See [`TokensError`].
    pub fn new(tokens: impl IntoIterator<Item = NamedToken>) -> Result<Self, TokensError> {
        let tokens: Vec<_> = tokens.into_iter().collect();
        match tokens.len() {
            0 => return Err(TokensError::None),
            count if count > MAX_TOKENS => return Err(TokensError::TooMany(count)),
            _ => {}
        }
        for (index, token) in tokens.iter().enumerate() {
            let earlier = &tokens[..index];
            if earlier.iter().any(|other| other.name == token.name) {
                return Err(TokensError::Name(token.name.clone()));
            }
            if let Some(other) = earlier.iter().find(|other| other.token.equals(&token.token)) {
                return Err(TokensError::Same(other.name.clone(), token.name.clone()));
            }
        }
        Ok(Self(tokens))
    }

    /// Reads the tokens of a file, one a line: `name: scope,scope token`. Lines that begin with # are comments.
    ///
    /// # Errors
    ///
    /// See [`TokensError`]. No message shows a token.
    pub fn parse(text: &str) -> Result<Vec<NamedToken>, TokensError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let tokens = lines.map(|(line, text)| parse_line(text).map_err(|problem| TokensError::Line { line, problem }));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        // Their users combine them with others, but these must fit together already.
        Self::new(tokens).map(|Self(tokens)| tokens)
    }

    /// The token that a caller shows.
    pub(super) fn find(&self, shown: &str) -> Option<&NamedToken> {
        // Compares with all of them, so that the time does not tell which one it was.
        self.0.iter().fold(None, |found, token| if token.token.is(shown) { Some(token) } else { found })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn parse_line(line: &str) -> Result<NamedToken, String> {
    const FORM: &str = "write it as `name: scope,scope token`, like `ci: read,publish TOKEN`";
    let (name, rest) = line.split_once(':').ok_or_else(|| format!("there is no name; {FORM}"))?;
    let mut words = rest.split_whitespace();
    let (Some(scopes), Some(token)) = (words.next(), words.next()) else {
        return Err(format!("there are no scopes, or there is no token; {FORM}"));
    };
    if words.next().is_some() {
        return Err(format!("there is more than scopes and a token; {FORM}, with no blanks between the scopes"));
    }
    let name = name.trim_end();
    // What stands before the colon is not shown: in a line that begins with the token, it is the token.
    let name = name.parse().map_err(|problem: String| format!("what stands before the colon: {problem}"))?;
    let scopes = scopes.split(',').try_fold(Scopes::NONE, |scopes, scope| match scope.parse::<Scope>() {
        Ok(scope) => Ok(scopes.and(scope)),
        // It may be a token, where the scopes were left out or come behind it.
        Err(_) if Token::LENGTH.contains(&scope.len()) => {
            Err(format!("there is no list of scopes behind the name; {FORM}"))
        }
        Err(problem) => Err(problem),
    })?;
    let token = token.parse()?;
    Ok(NamedToken { name, scopes, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";

    #[test]
    fn a_file_has_a_token_a_line() {
        let text = format!("# who may\n\ngrafana: read {A}\r\n  ci : publish,deploy\t{B}  \n#x: read {A}\n");
        let tokens = Tokens::new(Tokens::parse(&text).unwrap()).unwrap();
        assert_eq!(tokens.count(), 2);
        let told = |shown| tokens.find(shown).map(|token| format!("{} {}", token.name, token.scopes));
        assert_eq!(told(A).as_deref(), Some("grafana read"));
        assert_eq!(told(B).as_deref(), Some("ci publish,deploy"));
        assert_eq!(told("bbbbbbbbbbbbbbb"), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_the_token() {
        const SECRET: &str = "hunter2hunter2hunter2";
        for (line, problem) in [
            (SECRET, "there is no name; write it as `name: scope,scope token`, like `ci: read,publish TOKEN`"),
            ("ci: read", "there are no scopes, or there is no token; write it as"),
            (&format!("ci: {SECRET}"), "there are no scopes, or there is no token; write it as"),
            (&format!("ci: {SECRET} read"), "there is no list of scopes behind the name; write it as"),
            (&format!("ci: read, publish {SECRET}"), "there is more than scopes and a token; write it as"),
            (&format!("ci: root {SECRET}"), "\"root\" is not a scope; the scopes are read, publish,"),
            (&format!("ci: read, {SECRET}"), "\"\" is not a scope"),
            ("ci: hunter2! read", "there is no list of scopes behind the name; write it as"),
            (&format!("c i: read {SECRET}"), "what stands before the colon: it is not a name; write up to 64 letters"),
            (&format!("{SECRET}=: read ci"), "what stands before the colon: it is not a name; write up to 64 letters"),
            (&format!("{}: read {SECRET}", "x".repeat(65)), "what stands before the colon: it is not a name"),
            (&format!("unknown: read {SECRET}"), "what stands before the colon: unknown is what the log calls those"),
            ("ci: read hunter2", "the token has 7 characters; 8 to 1024 are allowed"),
        ] {
            let error = Tokens::parse(&format!("# a comment\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line 2: {problem}")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for (text, problem) in [
            (" # nothing\n".to_owned(), "there is no token in it; write one a line"),
            (format!("a: read {A}\na: read {B}"), "two tokens are called a; give each a name of its own"),
            (format!("a: read {A}\nb: read {A}"), "a and b have the same token; give each one of its own"),
            ((0..1001).map(|i| format!("t{i}: read {A}{i}\n")).collect(), "there are 1001 tokens; at most 1000"),
        ] {
            let error = Tokens::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
