//! `broadcast sim`: runs scenarios on the virtual network, and reports the results with a command that repeats each failure.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use broadcast::sim::{
    Batch, DEFAULT, Job, RandomScenario, RunControl, RunEnd, RunOutcome, Scenario, Violation, lifeguard, table,
};
use clap::Args;
use serde_json::json;
use tokio::{task, time::sleep};

use super::signals::StopSignals;
use crate::failure::Failure;

/// How often the progress bar is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Simulate clusters with faults, and check that every message arrives
///
/// The simulator runs the same nodes as `broadcast node`, on a virtual clock and network. A minute of a thousand
/// nodes takes seconds, and the same seed always produces the same run.
///
/// Each scenario is a TOML file. It says how many nodes there are, what the network does to packets, who publishes
/// how much, what fails, and which results the run must reach. The simulator checks every step of every run: no
/// message is delivered twice, altered, invented or skipped silently; no receipt counts a node that does not have
/// the message; no queue exceeds its limit; no node believes itself dead. docs/simulator.md describes scenarios.
///
/// Exit codes: 0, all checks passed; 1, a check failed or a result was not reached (the command that repeats the
/// run is printed); 2, a scenario is not valid; 130, Ctrl-C (what ran until then is reported).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast sim\n  \
    broadcast sim scenarios/lossy-50.toml scenarios/churn.toml --seeds 1..20\n  \
    broadcast sim scenarios/partition.toml --size 50 --seed 7 --json\n  \
    broadcast sim --random 3000\n  \
    broadcast sim --lifeguard")]
pub(super) struct SimArgs {
    /// Scenarios to run [default: a built-in one with loss, pauses, a partition and restarts]
    #[arg(value_name = "SCENARIO.toml")]
    files: Vec<PathBuf>,

    /// Compare plain SWIM with Lifeguard when some members are slow: who is declared dead, and how soon
    #[arg(long, conflicts_with_all = ["files", "until_step"])]
    lifeguard: bool,

    /// Run this many random scenarios, made from the numbers from --seed on [default: 1]: absences of up to 400 s,
    /// moves, wrong clocks, blocked UDP and more. If you run only one, its scenario is printed, too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with_all = ["files", "lifeguard", "seeds", "size"])]
    random: Option<u32>,

    /// Run with each of these seeds, both ends included, instead of the scenario's
    #[arg(long, value_name = "A..B", value_parser = sim_seeds)]
    seeds: Option<SimSeeds>,

    /// Run with this seed only
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// Run with this many nodes instead of the scenario's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=broadcast::sim::MAX_SIZE as i64))]
    size: Option<u32>,

    /// Stop each run after this many steps, and print the last of them
    #[arg(long, value_name = "STEP")]
    until_step: Option<u64>,

    /// Print the report as JSON, with all figures of every run
    #[arg(long)]
    json: bool,
}

/// A range of seeds. The alias has clap take it for one value.
type SimSeeds = RangeInclusive<u64>;

fn sim_seeds(text: &str) -> Result<SimSeeds, String> {
    broadcast::sim::parse_seeds(text)
}

pub(super) async fn run(args: SimArgs) -> Result<ExitCode, Failure> {
    if args.lifeguard {
        return compare(args).await;
    }
    if let Some(count) = args.random {
        return run_random(args, count).await;
    }
    let scenarios = read(&args)?;
    let total = jobs(&scenarios).len();
    let control = RunControl::until(args.until_step);
    let work = {
        let scenarios = scenarios.clone();
        move |control: &RunControl| Batch::new(jobs(&scenarios)).run(control)
    };
    let (outcomes, interrupted) = supervise(control, total, work).await?;
    // After two signals it does not wait for the runs to notice.
    let Some(outcomes) = outcomes else { return Ok(interrupted.unwrap_or(ExitCode::FAILURE)) };
    report(&args, &scenarios, &outcomes, total);
    Ok(interrupted.unwrap_or_else(|| verdict(&args, &outcomes)))
}

fn verdict(args: &SimArgs, outcomes: &[RunOutcome]) -> ExitCode {
    let good = outcomes.iter().all(RunOutcome::is_good);
    // With --until-step, a run that gets there is good.
    let stopped = args.until_step.is_some() && outcomes.iter().all(|outcome| matches!(outcome.end, RunEnd::Stopped));
    if good || stopped { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs random scenarios.
async fn run_random(args: SimArgs, count: u32) -> Result<ExitCode, Failure> {
    let first = args.seed.unwrap_or(1);
    let seeds = first..=first.saturating_add(u64::from(count) - 1);
    if count == 1 && !args.json {
        let _ = writeln!(io::stdout(), "{}", RandomScenario::of(first).text);
    }
    let control = RunControl::until(args.until_step);
    let work = move |control: &RunControl| {
        let scenarios: Vec<RandomScenario> = seeds.map(RandomScenario::of).collect();
        Batch::new(scenarios.iter().map(RandomScenario::job).collect()).run(control)
    };
    let (outcomes, interrupted) = supervise(control, count as usize, work).await?;
    let Some(outcomes) = outcomes else { return Ok(interrupted.unwrap_or(ExitCode::FAILURE)) };
    report(&args, &Scenarios::new(), &outcomes, count as usize);
    Ok(interrupted.unwrap_or_else(|| verdict(&args, &outcomes)))
}

/// Compares plain SWIM with Lifeguard.
async fn compare(args: SimArgs) -> Result<ExitCode, Failure> {
    let members = args.size.map_or(lifeguard::MEMBERS, |size| size as usize);
    if members < lifeguard::MIN_MEMBERS {
        return Err(Failure::usage(format!(
            "--size = {members}: give {} or more, as many are slow",
            lifeguard::MIN_MEMBERS
        )));
    }
    let seeds = args.seeds.unwrap_or_else(|| args.seed.map_or(1..=1, |seed| seed..=seed));
    let total = lifeguard::runs(seeds.clone().count());
    let work = move |control: &RunControl| lifeguard::compare(members, seeds, control);
    let (report, interrupted) = supervise(RunControl::default(), total, work).await?;
    if let Some(report) = report {
        let mut out = io::stdout().lock();
        let _ = if args.json { writeln!(out, "{:#}", report.to_json()) } else { write!(out, "{}", report.table()) };
    }
    Ok(interrupted.unwrap_or(ExitCode::SUCCESS))
}

/// Does `work` on another thread, and shows its progress. The first signal stops the runs, and the report is about what ran
/// until then; a second signal does not wait for that.
async fn supervise<T: Send + 'static>(
    control: RunControl,
    total: usize,
    work: impl FnOnce(&RunControl) -> T + Send + 'static,
) -> Result<(Option<T>, Option<ExitCode>), Failure> {
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    let control = Arc::new(control);
    let mut work = {
        let control = Arc::clone(&control);
        task::spawn_blocking(move || work(&control))
    };
    let mut interrupted = None;
    let result = loop {
        tokio::select! {
            result = &mut work => break Some(result.map_err(Failure::other)?),
            code = signals.exit_code() => {
                if interrupted.replace(code).is_some() {
                    break None;
                }
                control.stop.store(true, Ordering::Relaxed);
            }
            () = sleep(TICK) => show_progress(&control, total),
        }
    };
    clear_progress();
    Ok((result, interrupted))
}

/// The scenarios, each with the file it is from, if it is from one.
type Scenarios = Vec<(Option<String>, Scenario)>;

fn read(args: &SimArgs) -> Result<Scenarios, Failure> {
    let mut scenarios = Vec::new();
    if args.files.is_empty() {
        scenarios.push((None, Scenario::parse("default", DEFAULT).map_err(Failure::usage)?));
    }
    for path in &args.files {
        let file = path.to_string_lossy().into_owned();
        let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        let scenario = Scenario::parse(&file, &text).map_err(Failure::usage)?;
        scenarios.push((Some(file), scenario));
    }
    name_apart(&mut scenarios);
    for (_, scenario) in &mut scenarios {
        if let Some(seeds) = args.seeds.clone().or(args.seed.map(|seed| seed..=seed)) {
            scenario.seeds = seeds;
        }
        if let Some(size) = args.size {
            *scenario = scenario.clone().at_size(size as usize).map_err(Failure::usage)?;
        }
    }
    Ok(scenarios)
}

/// Names scenarios by their files where two have one name: reports, and the commands that repeat runs, must tell them apart.
fn name_apart(scenarios: &mut Scenarios) {
    let names: Vec<String> = scenarios.iter().map(|(_, scenario)| scenario.name.clone()).collect();
    for (file, scenario) in scenarios {
        if let Some(file) = file
            && names.iter().filter(|name| **name == scenario.name).count() > 1
        {
            scenario.name.clone_from(file);
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}; give the path of a scenario, like scenarios/churn.toml", path.display()))
}

fn jobs(scenarios: &Scenarios) -> Vec<Job<'_>> {
    let mut jobs = Vec::new();
    for (_, scenario) in scenarios {
        for &size in &scenario.sizes {
            jobs.extend(scenario.seeds.clone().map(|seed| Job { scenario, size, seed }));
        }
    }
    jobs
}

/// Only on a terminal: in a file, a progress bar is noise.
fn show_progress(control: &RunControl, total: usize) {
    const WIDTH: usize = 30;
    let mut to = io::stderr();
    if !to.is_terminal() {
        return;
    }
    let done = control.done.load(Ordering::Relaxed);
    let simulated = control.simulated.load(Ordering::Relaxed) / 1000;
    let filled = WIDTH * done / total.max(1);
    let (done_part, rest) = ("#".repeat(filled), ".".repeat(WIDTH - filled));
    let _ = write!(to, "\r\x1b[K[{done_part}{rest}] {done} of {total} runs, {simulated} s simulated");
    let _ = to.flush();
}

fn clear_progress() {
    let mut to = io::stderr();
    if to.is_terminal() {
        let _ = write!(to, "\r\x1b[K");
    }
}

fn report(args: &SimArgs, scenarios: &Scenarios, outcomes: &[RunOutcome], total: usize) {
    // If nobody can read it, the exit code says it too.
    let mut out = io::stdout().lock();
    if args.json {
        let runs: Vec<_> = outcomes.iter().map(RunOutcome::to_json).collect();
        let good = outcomes.len() == total && outcomes.iter().all(RunOutcome::is_good);
        let _ = writeln!(out, "{:#}", json!({ "runs": runs, "total": total, "good": good }));
    } else if !outcomes.is_empty() {
        for (_, scenario) in scenarios.iter().filter(|(_, scenario)| !scenario.about.is_empty()) {
            let _ = writeln!(out, "{}: {}", scenario.name, scenario.about);
        }
        let _ = write!(out, "{}", table(outcomes));
    }
    let mut err = io::stderr().lock();
    if outcomes.len() < total {
        let _ = writeln!(err, "{} of {total} runs were done", outcomes.len());
    }
    for outcome in outcomes {
        for line in failure_lines(outcome, file_of(scenarios, outcome), args.random.is_some()) {
            let _ = writeln!(err, "{line}");
        }
    }
}

fn file_of<'a>(scenarios: &'a Scenarios, outcome: &RunOutcome) -> Option<&'a str> {
    scenarios.iter().find(|(_, scenario)| scenario.name == outcome.scenario)?.0.as_deref()
}

/// What went wrong in a run, and the command that repeats it.
fn failure_lines(outcome: &RunOutcome, file: Option<&str>, random: bool) -> Vec<String> {
    let RunOutcome { scenario, size, seed, .. } = outcome;
    let command = match file {
        Some(file) => format!("broadcast sim {file} --seed {seed} --size {size}"),
        None if random => format!("broadcast sim --random 1 --seed {seed}"),
        None => format!("broadcast sim --seed {seed} --size {size}"),
    };
    let run = format!("{scenario}, {size} nodes, seed {seed}");
    let mut lines = outcome.trace.clone();
    if let RunEnd::Violated(Violation { description, step, at }) = &outcome.end {
        lines.push(format!("violated: {run}, step {step}, {:.6} s: {description}", at.as_secs_f64()));
        lines.push(format!("  repeat it: {command} --until-step {step}"));
    }
    for unmet in &outcome.unmet {
        lines.push(format!("missed: {run}: {unmet}"));
    }
    if !outcome.unmet.is_empty() {
        lines.push(format!("  repeat it: {command}"));
    }
    lines
}
