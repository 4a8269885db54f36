//! The README and the pages in `docs/`: their links lead somewhere, and their tables list what the program has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use crate::support::{program, repository, stdout};

/// The most lines that the README may have: a newcomer reads it to the end.
const README_LINES: usize = 150;

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let headings: BTreeMap<_, _> = pages.iter().map(|page| (page.clone(), anchors(&read(page)))).collect();
    let mut dead = Vec::new();
    for page in &pages {
        for target in links(&read(page)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = page.parent().expect("a page is in a folder");
            let file = if file.is_empty() { page.clone() } else { normal(&folder.join(file)) };
            let anchor_exists = || headings.get(&file).is_some_and(|anchors| anchors.contains(anchor));
            if !file.exists() || !anchor.is_empty() && !anchor_exists() {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "these links lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let lines = read(&repository("README.md")).lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines; more than {README_LINES} belong into docs/");
}

#[test]
fn the_readme_links_to_every_page() {
    let linked: BTreeSet<_> = links(&read(&repository("README.md"))).into_iter().collect();
    for page in markdown_in("docs") {
        let name = format!("docs/{}", page.file_name().expect("a file").to_string_lossy());
        assert!(linked.contains(&name), "README.md has no link to {name}");
    }
}

#[test]
fn the_page_of_commands_has_them_all() {
    let page = read(&repository("docs/commands.md"));
    for name in commands() {
        assert!(page.contains(&format!("\n| `broadcast {name}")), "broadcast {name} has no row in docs/commands.md");
    }
}

#[test]
fn anchors_are_those_of_a_page_on_github() {
    let page = "# A `b` & C: d-e_f\n```\n# no heading\n```\n## Twice\n## Twice\n[a](b.md#c) `[no](link)` [two\nlines](#twice)\n";
    let expected = ["a-b--c-d-e_f", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(anchors(page), BTreeSet::from(expected));
    assert_eq!(links(page), ["b.md#c", "#twice"]);
}

/// All pages whose links are checked.
fn pages() -> Vec<PathBuf> {
    let examples = fs::read_dir(repository("examples")).expect("there are examples");
    let examples = examples.map(|entry| entry.expect("it can be read").path().join("README.md"));
    let mut pages = [markdown_in("."), markdown_in("docs"), markdown_in("fuzz")].concat();
    pages.extend(markdown_in("crates/gossip/src/dissemination"));
    pages.extend(examples.filter(|page| page.exists()));
    pages.iter().map(|page| normal(page)).collect()
}

pub(crate) fn markdown_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository(folder)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

pub(crate) fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part.as_os_str().to_str() {
            Some(".") => {}
            Some("..") => drop(normal.pop()),
            _ => normal.push(part),
        }
    }
    normal
}

/// The text outside blocks of code.
fn prose(page: &str) -> String {
    let mut in_code = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            prose += line;
            prose.push('\n');
        }
    }
    prose
}

/// Where the links and pictures of a page lead to.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    // What is between backticks is code. A link's text may have code in it, but its target has none.
    let outside_code = prose.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "code" });
    let text: String = outside_code.collect();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// What the headings of a page are called in links, as GitHub names them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().chars();
            let kept = kept.filter(|&letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(&letter));
            let name = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let count = seen.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 { name } else { format!("{name}-{}", *count - 1) }
        })
        .collect()
}

/// The program's commands.
pub(crate) fn commands() -> Vec<String> {
    let help = help(&["--help"]);
    let commands = help.split_once("\nCommands:\n").expect("a list of commands").1;
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !["", "help"].contains(name)).map(String::from).collect()
}

pub(crate) fn help(args: &[&str]) -> String {
    stdout(program(args).output().expect("the program runs"))
}
