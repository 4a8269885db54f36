//! With what others wrote, and what was written before: nodes of hashicorp/memberlist, agents of serf and nodes of
//! the previous release in one cluster with ours, the tools that judge what ours show of themselves, networks that
//! are not plain, and a disk that is full.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod cells;
mod churn;
mod compat;
mod disk;
mod etcd;
mod example;
mod grpc;
mod http2;
mod lock_faults;
mod manifests;
mod matrix;
mod memberlist;
mod nemesis;
mod networks;
mod observe;
mod one_at_a_time;
mod openapi;
mod serf;
mod tls;
mod voters;

use std::process::ExitCode;

use support::require;

/// Nearly all of the time the tests wait for timers of the protocols.
const THREADS: usize = 14;

fn main() -> ExitCode {
    if nemesis::was_client() || lock_faults::was_holder() {
        return ExitCode::SUCCESS;
    }
    let mut args = libtest_mimic::Arguments::from_args();
    args.test_threads.get_or_insert(THREADS);
    // The longest come first.
    let cases = [
        nemesis::cases(),
        lock_faults::cases(),
        etcd::cases(),
        memberlist::cases(),
        compat::cases(),
        networks::cases(),
        addresses::cases(),
        openapi::cases(),
        http2::cases(),
        grpc::cases(),
        tls::cases(),
        serf::cases(),
        observe::cases(),
        example::cases(),
        manifests::cases(),
        disk::cases(),
    ];
    require::run_cases(&args, cases.into_iter().flatten().collect())
}
