//! Counts the instructions of the core's operations: results that do not depend on how busy the machine is.
//!
//! `scripts/bench-instructions` runs each operation under valgrind, which counts the instructions in [`counted`], and compares
//! them with `baseline.txt`. Without valgrind, all operations run once, to see that they work.
//!
//! The operations are deterministic: the clock is virtual, the seeds are fixed, and messages are handed over in memory. Only the
//! hash maps of the standard library have random seeds, which change a few instructions in a thousand.

mod cluster;
mod codec;
mod messages;

use std::{env, hint::black_box, process::ExitCode};

/// Performs an operation, and returns how often.
type Operation = fn() -> u64;

/// The operations to measure.
const OPERATIONS: [(&str, Operation); 12] = [
    ("publish", messages::publish),
    ("publish_batch", messages::publish_batch),
    ("deliver", messages::deliver),
    ("deliver_batch", messages::deliver_batch),
    ("acknowledge", messages::acknowledge),
    ("acknowledge_batch", messages::acknowledge_batch),
    ("repair", messages::repair),
    ("rest", messages::rest),
    ("encode", codec::encode),
    ("decode", codec::decode),
    ("encrypt", codec::encrypt),
    ("decrypt", codec::decrypt),
];

/// Runs something whose instructions count. valgrind knows this function by its name.
#[inline(never)]
fn counted<R>(operation: impl FnOnce() -> R) -> R {
    black_box(operation())
}

/// The processor features that code selects its implementation by: the results depend on them.
fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("aes", is_x86_feature_detected!("aes")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("sse4.1", is_x86_feature_detected!("sse4.1")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&str, bool); 0] = [];
    let names: Vec<_> = found.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
    format!("{} {}", env::consts::ARCH, names.join(" "))
}

fn main() -> ExitCode {
    // Cargo says `--bench`.
    let arg = env::args().skip(1).find(|arg| arg != "--bench");
    match arg.as_deref() {
        None => OPERATIONS.iter().for_each(|(name, operation)| println!("{name} {}", operation())),
        Some("--list") => OPERATIONS.iter().for_each(|(name, _)| println!("{name}")),
        Some("--processor") => println!("{}", features()),
        Some(wanted) => {
            let Some((_, operation)) = OPERATIONS.iter().find(|(name, _)| *name == wanted) else {
                eprintln!("error: there is no operation {wanted}; --list tells which there are");
                return ExitCode::from(2);
            };
            println!("{}", operation());
        }
    }
    ExitCode::SUCCESS
}
