# The commands that one types all day. Without `just` (https://just.systems), type what the recipes have.
# CONTRIBUTING.md says more.

# List the recipes
default:
    @just --list --unsorted

# Compile everything, tests and benchmarks too, and link nothing: the quickest answer
check:
    cargo check --workspace --all-targets

# Format the code
fmt:
    cargo fmt --all

# Check the format, the dependencies, the lints and the docs, as CI does
lint:
    cargo fmt --all --check
    .ci/dependencies
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Run the unit tests and the simulated clusters, or those whose names contain FILTER
unit *FILTER:
    cargo test --lib --bins -- {{ FILTER }}

# Run all tests of one crate, or those whose names contain FILTER: just crate store
crate NAME *FILTER:
    cargo test -p broadcast-{{ NAME }} -- {{ FILTER }}

# Run the tests of the program: its commands, clusters on loopback, HTTP, the documents
processes *FILTER:
    cargo test --test processes -- {{ FILTER }}

# Run the tests with other programs: Go nodes, serf, etcd, Prometheus, networks
interop *FILTER:
    cargo test --test interop -- {{ FILTER }}

# Run the tests of the page, in a browser
page *FILTER:
    cargo test --test page -- {{ FILTER }}

# Run the tests that need a Docker engine
containers *FILTER:
    cargo test -p broadcast-containers -- {{ FILTER }}

# Run all tests
test:
    cargo test

# Replay the corpora of all fuzzers
corpora:
    cargo test --lib --bins -- the_corp

# Run three nodes in this terminal: just demo --timeline
demo *ARGS:
    cargo run -- demo {{ ARGS }}

# Simulate a cluster: just sim scenarios/churn.toml --seed 7
sim *ARGS:
    cargo run --release -- sim {{ ARGS }}

# Count the instructions of each operation, and compare them with the baseline: just instructions --where --only publish
instructions *ARGS:
    scripts/bench-instructions {{ ARGS }}

# Open the docs of the library in a browser
doc:
    cargo doc -p broadcast-gossip --no-deps --open

# Run what every change must pass; `just ci full` adds what takes hours
ci *MODE:
    .ci/run {{ MODE }}
