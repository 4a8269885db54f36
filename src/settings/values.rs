//! Reading the values of settings.

use std::{
    fs::File,
    io::Read as _,
    net::{SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use broadcast::{ConfigError, Seed, zones};
use clap::builder::{PathBufValueParser, TypedValueParser};

/// What is said of a setting whose value is no text, behind its name.
pub(crate) const NOT_TEXT: &str = "is not text in UTF-8; write it anew";

/// An address to listen on, whose zone may be that of an interface; nothing if it is none.
pub(super) fn address(text: &str, default_port: u16) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    let ip_alone = || text.parse().map(|ip| SocketAddr::new(ip, default_port));
    if let Ok(addr) = text.parse().or_else(|_| ip_alone()) {
        return Ok(Some(addr));
    }
    let seed = Seed::parse(text, default_port).ok();
    let Some((ip, zone)) = seed.as_ref().and_then(Seed::zoned) else { return Ok(None) };
    let port = seed.as_ref().map_or(default_port, |seed| seed.port);
    Ok(Some(SocketAddrV6::new(ip, port, 0, zones::number(zone)?).into()))
}

/// What a duration may be, unless it says otherwise.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    duration_in(text, &DURATIONS)
}

pub(crate) fn duration_in(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| "not a duration; write a number with its unit, like 250ms, 3s or 1m")?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        let [least, most] = [range.start(), range.end()].map(|end| humantime::format_duration(*end));
        Err(format!("out of range; write a duration from {least} to {most}"))
    }
}

/// A file or a directory, whose name may have any letters.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    /// What the system takes, and the end.
    const LONGEST: usize = 4095;
    PathBufValueParser::new().try_map(|path| match path.as_os_str().as_encoded_bytes() {
        name if name.trim_ascii().is_empty() => Err("it is blank; write a path, or leave it out".to_owned()),
        name if name.len() > LONGEST => Err(format!("it is longer than {LONGEST} bytes; write a shorter path")),
        _ => Ok(path),
    })
}

pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.trim() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false"),
    }
}

/// What is wrong with a setting, when setting and value are named beside it.
pub(super) fn problem(error: ConfigError) -> String {
    match error {
        ConfigError::Range { allowed, .. } => format!("it must be {allowed}"),
        ConfigError::Faults { problem, .. }
        | ConfigError::Network { problem, .. }
        | ConfigError::Tags { problem, .. } => problem.into(),
        error => error.to_string(),
    }
}

/// How the setting of that name is named, as all of them are: `BROADCAST_MAX_MEMBERS (--max-members)`.
pub(super) fn name_of(name: &str) -> String {
    format!("BROADCAST_{} (--{})", name.to_uppercase(), name.replace('_', "-"))
}

/// What the file has that the setting of that name names, up to `limit` bytes.
pub(super) fn read_file(name: &str, path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)) {
        Err(error) => Err(of_file(name, path, &format!("it cannot be read: {error}"))),
        Ok(len) if len as u64 > limit => {
            Err(of_file(name, path, &format!("it is larger than {limit} bytes; is it the right file?")))
        }
        Ok(_) => Ok(bytes),
    }
}

/// A problem of the file that the setting of that name names.
pub(super) fn of_file(name: &str, path: &Path, problem: &str) -> String {
    format!("{} = {path:?}: {problem}", name_of(name))
}
