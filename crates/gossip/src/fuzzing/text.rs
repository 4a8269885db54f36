//! What people configure.

use crate::{
    Config, Faults, NodeId, Seed,
    config::{ByteSize, ConfigError, DEFAULT_PORT, parse_network, parse_tags, quote},
};

/// What an error says at most, in bytes, whatever it refuses: of a hundred letters each may have ten bytes as it is shown.
const ERROR: usize = 1500;

/// Seeds, names, faults, tags, networks, sizes and identities: what is accepted is written as it is read, and what is
/// refused is refused in few words.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    same(Seed::parse(text, DEFAULT_PORT), |seed| seed.to_string().parse());
    same(text.parse::<Faults>(), |faults| faults.to_string().parse());
    same(text.parse::<NodeId>(), |id| id.to_string().parse());
    same(parse_network(text), |of| parse_network(&of.to_string()));
    same(parse_tags(text), |tags| {
        parse_tags(&tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
    });
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    is_short(&quote(text));
    // Whether it can be does not matter: only that it is answered.
    if let Err(error) = Config::new(text).meta(data).validate() {
        is_short(&error.to_string());
    }
}

fn same<T: std::fmt::Debug + PartialEq>(read: Result<T, ConfigError>, again: impl Fn(&T) -> Result<T, ConfigError>) {
    match read {
        Ok(read) => assert_eq!(again(&read).as_ref(), Ok(&read)),
        Err(error) => is_short(&error.to_string()),
    }
}

fn is_short(shown: &str) {
    assert!(shown.len() <= ERROR && !shown.contains(char::is_control), "{shown:?}");
}
