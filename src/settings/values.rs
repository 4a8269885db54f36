//! Parsers for values of settings, and bounded reading of their files.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    net::{SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use broadcast::{ConfigError, Seed, zones};
use clap::builder::{PathBufValueParser, TypedValueParser};
use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// The error for a value that is not text, after the name of the setting.
pub(crate) const NOT_TEXT: &str = "is not text in UTF-8; write it anew";

/// Parses an address to listen on, whose zone may name an interface. Gives nothing if the text is not an address.
pub(super) fn address(text: &str, default_port: u16) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    let ip_alone = || text.parse().map(|ip| SocketAddr::new(ip, default_port));
    if let Ok(addr) = text.parse().or_else(|_| ip_alone()) {
        return Ok(Some(addr));
    }
    let seed = Seed::parse(text, default_port).ok();
    let Some((ip, zone)) = seed.as_ref().and_then(Seed::zoned) else { return Ok(None) };
    let port = seed.as_ref().map_or(default_port, |seed| seed.port);
    Ok(Some(SocketAddrV6::new(ip, port, 0, zones::interface_index(zone)?).into()))
}

/// The range of most durations.
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

/// A parser for paths, which may have any bytes.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    /// The system's limit, without the final zero.
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

/// What is wrong with a setting, for a line that names the setting and its value already.
pub(super) fn problem(error: ConfigError) -> String {
    match error {
        ConfigError::Range { allowed, .. } => format!("it must be {allowed}"),
        ConfigError::Faults { problem, .. }
        | ConfigError::Network { problem, .. }
        | ConfigError::Tags { problem, .. } => problem.into(),
        error => error.to_string(),
    }
}

/// The full name of a setting: `BROADCAST_MAX_MEMBERS (--max-members)`.
pub(super) fn name_of(name: &str) -> String {
    format!("BROADCAST_{} (--{})", name.to_uppercase(), name.replace('_', "-"))
}

/// How long reading a pipe may take, like `<(…)`.
const PIPE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a file of up to `limit` bytes, or says what is wrong with it.
pub(crate) fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    match read_within(path, limit, PIPE_TIMEOUT) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(format!(
            "it is a pipe, and was not written to its end within {PIPE_TIMEOUT:?}; have something write to it and close it, \
             or name a file"
        )),
        Err(error) => Err(format!("it cannot be read: {error}")),
        Ok(bytes) if bytes.len() as u64 > limit => {
            Err(format!("it is larger than {limit} bytes; is it the right file?"))
        }
        Ok(bytes) => Ok(bytes),
    }
}

/// Reads a file, and stops one byte after `limit`.
fn read_within(path: &Path, limit: u64, time: Duration) -> io::Result<Vec<u8>> {
    // O_NONBLOCK: a pipe opens at once, even if nobody writes to it yet. The loop below waits for its data.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let (deadline, mut bytes) = (Instant::now() + time, Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], left)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // On WouldBlock, the bytes that came are kept.
        let all = limit + 1 - bytes.len() as u64;
        match (&file).take(all).read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read.map(|_| bytes),
        }
    }
}

/// Reads the file that a setting names, up to `limit` bytes.
pub(super) fn read_file(name: &str, path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    read_up_to(path, limit).map_err(|problem| of_file(name, path, &problem))
}

/// The error about the file that a setting names.
pub(super) fn of_file(name: &str, path: &Path, problem: &str) -> String {
    format!("{} = {path:?}: {problem}", name_of(name))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, thread};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_pipe_is_read_to_its_end_and_waited_for_only_so_long() {
        const SOON: Duration = Duration::from_secs(20);
        let folder = tempfile::TempDir::new().expect("a folder");
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::from_bits_truncate(0o600)).expect("a pipe");
        let timed_out = |read: io::Result<Vec<u8>>| read.expect_err("too late").kind() == io::ErrorKind::TimedOut;
        assert!(timed_out(read_within(&pipe, 10, Duration::from_millis(50))), "nobody writes");
        let write = |text: &'static [u8]| {
            let pipe = pipe.clone();
            thread::spawn(move || {
                let mut pipe = OpenOptions::new().write(true).open(pipe).expect("it is read");
                text.chunks(3).try_for_each(|part| pipe.write_all(part)).map(|()| pipe)
            })
        };
        let writing = write(b"a secret");
        let reading = thread::spawn({
            let pipe = pipe.clone();
            move || read_within(&pipe, 10, SOON)
        });
        drop(writing.join().expect("it writes"));
        assert_eq!(reading.join().expect("it reads").expect("in time"), b"a secret");
        let writing = write(b"a secret without an end");
        assert_eq!(read_within(&pipe, 10, SOON).expect("in time"), b"a secret wi", "no more than a byte beyond");
        drop(writing.join());
        let writing = write(b"half");
        assert!(timed_out(read_within(&pipe, 10, Duration::from_secs(1))), "it does not end");
        drop(writing.join());
        let file = folder.path().join("file");
        fs::write(&file, "a file").expect("it is written");
        assert_eq!(read_within(&file, 10, Duration::ZERO).expect("at once"), b"a file");
        assert!(read_up_to(folder.path(), 10).expect_err("a folder").starts_with("it cannot be read: "));
    }
}
