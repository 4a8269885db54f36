//! The parsers of settings.

use crate::{
    Config, Faults, NodeId, Seed,
    config::{ByteSize, ConfigError, DEFAULT_PORT, parse_network, parse_tags, quote},
};

/// The longest error message, in bytes: it shows at most a hundred characters of the input, each in at most ten bytes.
const MAX_ERROR: usize = 1500;

/// Parses seeds, names, faults, tags, networks, sizes and identities. Accepted values must be written so that they parse to the
/// same, and the errors of refused ones must be short.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_round_trip(Seed::parse(text, DEFAULT_PORT), |seed| seed.to_string().parse());
    assert_round_trip(text.parse::<Faults>(), |faults| faults.to_string().parse());
    assert_round_trip(text.parse::<NodeId>(), |id| id.to_string().parse());
    assert_round_trip(parse_network(text), |of| parse_network(&of.to_string()));
    assert_round_trip(parse_tags(text), |tags| {
        parse_tags(&tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
    });
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    assert_short(&quote(text));
    // It may be valid or not, but an error must be short.
    if let Err(error) = Config::new(text).meta(data).validate() {
        assert_short(&error.to_string());
    }
}

fn assert_round_trip<T: std::fmt::Debug + PartialEq>(
    read: Result<T, ConfigError>,
    again: impl Fn(&T) -> Result<T, ConfigError>,
) {
    match read {
        Ok(read) => assert_eq!(again(&read).as_ref(), Ok(&read)),
        Err(error) => assert_short(&error.to_string()),
    }
}

fn assert_short(shown: &str) {
    assert!(shown.len() <= MAX_ERROR && !shown.contains(char::is_control), "{shown:?}");
}
