//! Tests with other programs and other networks: nodes of hashicorp/memberlist, serf agents and nodes of the previous release in
//! one cluster with ours; etcd and its clients; tools that check what nodes show; networks, disks and clocks that fail.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod churn;
mod compat;
mod curl;
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
mod serf_matrix;
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
