//! Whole runs.

use super::*;

#[test]
fn placeholder() {
    let scenario = Scenario::parse("quiet", include_str!("../../scenarios/quiet-13.toml")).expect("a scenario");
    let outcome = run::run(&scenario, 13, 1, &Control::default());
    println!("{}", table(&[outcome.clone()]));
    println!("{}", outcome.to_json());
    assert!(outcome.is_good(), "{outcome:?}");
}
