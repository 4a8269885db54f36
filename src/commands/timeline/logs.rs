//! Reads collected logs, from files or standard input.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::draw::Input;
use crate::{commands::output::warn, failure::Failure, visible::quote};

/// The longest line that is read. A message has up to 1 MiB, each byte of which may be escaped.
const MAX_LINE: usize = 8 << 20;
/// The name of standard input.
const STDIN: &str = "-";

/// Starts to read the files, or standard input if there are none. The receiver gets the result.
pub(super) fn read(
    files: &[PathBuf],
    inputs: mpsc::Sender<Input>,
) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
    let mut sources: Vec<(String, Box<dyn Read + Send>)> = Vec::new();
    for file in files {
        sources.push(if file == Path::new(STDIN) {
            ("standard input".into(), Box::new(io::stdin()))
        } else {
            let opened = File::open(file).map_err(|error| unreadable(&quote(&file.to_string_lossy()), &error))?;
            (format!("{file:?}"), Box::new(opened))
        });
    }
    if sources.is_empty() {
        sources.push(("standard input".into(), Box::new(io::stdin())));
    }
    let (sender, result) = oneshot::channel();
    let read = move || {
        let read = sources.into_iter().try_for_each(|(name, source)| read_lines(&name, source, &inputs));
        // Nobody may wait for it any more.
        let _ = sender.send(read);
    };
    // The thread ends with the program, even if it waits for more input.
    thread::Builder::new().name("logs".into()).spawn(read).map_err(Failure::start)?;
    Ok(result)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::other(format!("cannot read {name}: {error}"))
}

fn read_lines(name: &str, source: impl Read, inputs: &mpsc::Sender<Input>) -> Result<(), Failure> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let mut too_long = 0_u64;
    loop {
        let mut line = Vec::new();
        let read = source.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line);
        let read = read.map_err(|error| unreadable(name, &error))?;
        if read == 0 {
            break;
        }
        if read == MAX_LINE && !line.ends_with(b"\n") {
            too_long += 1;
            drop(line);
            source.skip_until(b'\n').map_err(|error| unreadable(name, &error))?;
            continue;
        }
        let line = String::from_utf8(line).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into());
        if inputs.blocking_send(Input::Line(line)).is_err() {
            break;
        }
    }
    if too_long > 0 {
        warn(&format!("{too_long} lines of {name} are longer than {MAX_LINE} bytes, and are not drawn"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_and_bounded() {
        let (sender, mut inputs) = mpsc::channel(8);
        let text = ["first\n".as_bytes(), &vec![b'x'; 2 * MAX_LINE + 7], b"\n\xff\n", "the last".as_bytes()].concat();
        read_lines("a test", &*text, &sender).expect("it can be read");
        let lines: Vec<_> = std::iter::from_fn(|| inputs.try_recv().ok()).collect();
        let lines: Vec<_> = lines.iter().map(|input| format!("{input:?}")).collect();
        assert_eq!(lines, ["Line(\"first\\n\")", "Line(\"\u{fffd}\\n\")", "Line(\"the last\")"]);
    }
}
