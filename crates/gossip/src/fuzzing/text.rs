//! What people configure.

use crate::{Config, Faults, Seed, config::DEFAULT_PORT};

/// Seeds, names and faults: what is accepted is written as it is read.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(seed) = Seed::parse(text, DEFAULT_PORT) {
        assert_eq!(seed.to_string().parse().as_ref(), Ok(&seed));
    }
    if let Ok(faults) = text.parse::<Faults>() {
        assert_eq!(faults.to_string().parse().as_ref(), Ok(&faults));
    }
    // Whether it can be does not matter: only that it is answered.
    let _ = Config::new(text).meta(data).validate();
}
