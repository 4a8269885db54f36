//! The settings: pages, manual pages, completions and the files for Docker say exactly what the help says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    documents::{commands, help, markdown_in, read},
    support::{Process, program, repository, stdout},
};

/// Variables that compose.yaml and docker/stack.yaml read themselves.
const OF_COMPOSE: [&str; 4] = ["BROADCAST_ETCD_PORT", "BROADCAST_HTTP_PORT", "BROADCAST_IMAGE", "BROADCAST_MEM_LIMIT"];
/// What else begins with `BROADCAST_`: what the tests read, what Kubernetes sets, and what `broadcast lock` gives to its
/// command.
const OTHERS: [&str; 7] = [
    "BROADCAST_SCREENSHOT",
    "BROADCAST_SIM_SEED",
    "BROADCAST_PORT",
    "BROADCAST_LOCK_NAME",
    "BROADCAST_LOCK_TOKEN",
    "BROADCAST_LOCK_KEY",
    "BROADCAST_LOCK_SESSIONS",
];
const TESTS: &str = "BROADCAST_TESTS_";

/// A setting, as the help describes it.
#[derive(Clone, Debug)]
struct Setting {
    /// A secret has none.
    flag: Option<String>,
    /// All of it, on one line.
    help: String,
    /// Its default, if the help gives it as a plain value.
    default: Option<String>,
}

/// The settings of a command, by their variables.
fn settings(command: &str) -> BTreeMap<String, Setting> {
    let mut settings = BTreeMap::new();
    let help = help(&[command, "--help"]);
    let options = help.split_once("\nOptions:").map_or("", |(_, options)| options);
    for option in options.split("\n      --").skip(1) {
        let option = option.split("\n  -").next().unwrap_or_default();
        let flag = option.split([' ', '[', '\n']).next().expect("a flag");
        let words = option.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some((_, behind)) = words.split_once("[env: ") else { continue };
        let variable = behind.split(']').next().unwrap_or_default().to_owned();
        let default = behind.split_once("[default: ").and_then(|(_, default)| default.split(']').next());
        let (flag, default) = (Some(format!("--{flag}")), default.map(String::from));
        settings.insert(variable, Setting { flag, help: words, default });
    }
    // A secret has no flag: the help of the file's names it.
    for setting in settings.clone().into_values() {
        for secret in variables(&setting.help) {
            let setting = Setting { flag: None, default: None, ..setting.clone() };
            settings.entry(secret).or_insert(setting);
        }
    }
    settings
}

/// The settings of all commands.
fn all_settings() -> BTreeMap<String, Setting> {
    let all: BTreeMap<_, _> = commands().iter().flat_map(|command| settings(command)).collect();
    assert!(all.len() > 30, "{all:?}");
    all
}

/// All variables that a text names.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'));
    words.filter(|word| word.starts_with("BROADCAST_") && !word.ends_with('_')).map(String::from).collect()
}

/// The cells of the rows of a page's tables.
fn rows(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The bounds that a text names: `at most 512`, `at least 1024`, `8 to 1024`.
fn bounds(text: &str) -> Vec<&str> {
    let words: Vec<_> = text.split([' ', ',']).collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let mut bounds = Vec::new();
    for three in words.windows(3) {
        match three {
            ["at", "most" | "least", bound] if is_number(bound) => bounds.push(*bound),
            [least, "to", most] if is_number(least) && is_number(most) => bounds.extend([*least, *most]),
            _ => {}
        }
    }
    bounds
}

#[test]
fn every_setting_has_a_default_in_the_help() {
    for (variable, Setting { help, .. }) in all_settings() {
        assert!(help.contains("[default: "), "{variable}: {help}");
    }
    // What is set now is not shown: help is the same everywhere.
    let help = stdout(program(&["node", "--help"]).env("BROADCAST_NAME", "hush-hush").output().expect("it runs"));
    assert!(help.contains("BROADCAST_NAME") && !help.contains("hush-hush"), "{help}");
}

#[test]
fn the_page_of_settings_has_them_all() {
    let page = read(&repository("docs/settings.md"));
    let settings = all_settings();
    let mut listed = BTreeSet::new();
    for row in rows(&page).iter().filter(|row| row[0].starts_with("`BROADCAST_")) {
        let [variable, flag, default, meaning] = &row[..] else { panic!("four cells: {row:?}") };
        let variable = variable.trim_matches('`');
        let setting = settings.get(variable).unwrap_or_else(|| panic!("{variable} is not a setting"));
        assert_eq!(flag.trim_matches('`'), setting.flag.as_deref().unwrap_or_default(), "{variable}");
        if let Some(value) = &setting.default {
            assert_eq!(default, &format!("`{value}`"), "{variable}");
        }
        for bound in bounds(meaning) {
            assert!(setting.help.split([' ', ',', ';', '.']).any(|word| word == bound), "{variable}: {bound}");
        }
        assert!(listed.insert(variable.to_owned()), "{variable} has two rows");
    }
    assert_eq!(listed, settings.into_keys().collect());
}

#[test]
fn the_pages_have_the_defaults_of_settings() {
    let settings = all_settings();
    // As a setting has it: 64 MiB are 64MiB, and 65,536 each are 65536.
    let plain = |text: &str| text.replace([',', ' '], "");
    let mut compared = 0;
    let mut compare = |variable: &str, value: &str| {
        let Some(default) = settings.get(variable).and_then(|setting| setting.default.as_deref()) else { return };
        if !default.starts_with(|first: char| first.is_ascii_digit()) {
            return;
        }
        assert!(plain(value).starts_with(default), "{variable}: {value}, not {default}");
        compared += 1;
    };
    for row in rows(&read(&repository("docs/limits.md"))) {
        if let [_, value, variable, ..] = &row[..] {
            compare(variable.trim_matches('`'), value);
        }
    }
    // `BROADCAST_RETAIN_BYTES` (64 MiB)
    for page in markdown_in("docs") {
        let page = read(&page);
        for named in page.split("`BROADCAST_").skip(1) {
            let Some((variable, value)) = named.split_once("` (") else { continue };
            if value.starts_with(|first: char| first.is_ascii_digit()) {
                compare(&format!("BROADCAST_{variable}"), value);
            }
        }
    }
    assert!(compared > 8, "{compared}");
}

#[test]
fn manual_pages_and_completions_have_them_all() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let path = folder.path().to_str().expect("text");
    stdout(program(&["man", "--dir", path]).output().expect("the program runs"));
    let completions = stdout(program(&["completions", "bash"]).output().expect("the program runs"));
    for command in commands() {
        let page = read(&folder.path().join(format!("broadcast-{command}.1")));
        for (variable, setting) in settings(&command) {
            let Some(flag) = setting.flag else {
                assert!(variables(&page).contains(&variable), "{command}: {variable}");
                continue;
            };
            assert!(page.contains(&format!("\\fB{variable}\\fR")), "{command}: {variable}");
            assert!(page.contains(&flag.replace('-', "\\-")), "{command}: {flag}");
            assert!(completions.split([' ', '"', ')', '|']).any(|word| word == flag), "{command}: {flag}");
        }
    }
}

/// The variables that a file for Docker sets, and those that it passes on as they are.
fn environment(file: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut set, mut passed_on) = (BTreeSet::new(), BTreeSet::new());
    for line in read(&repository(file)).lines() {
        let Some((variable, value)) = line.trim().split_once(':') else { continue };
        if variables(variable).contains(variable) {
            let set_from_itself = value.contains(&format!("${{{variable}:-"));
            let to = if value.is_empty() || set_from_itself { &mut passed_on } else { &mut set };
            to.insert(variable.into());
        }
    }
    (set, passed_on)
}

#[test]
fn compose_and_the_stack_pass_settings_on() {
    let of_a_node: BTreeSet<_> = settings("node").into_keys().collect();
    // What differs between the nodes, and what names a file of the host or stands for one that it has as a secret.
    let differs = ["ADVERTISE", "BIND", "DATA", "NAME", "ROLE", "VOTERS"];
    let files = ["TLS_CERT_FILE", "TLS_CLIENT_CA_FILE", "TLS_KEY_FILE", "TOKENS_FILE", "TOKEN_FILE"];
    let compose = [&files[..], &["ETCD", "HTTP", "HTTP_TOKEN_FILE", "JOIN", "SECRET_KEYS_FILE"]].concat();
    let stack = ["HTTP", "HTTP_TOKEN", "HTTP_TOKEN_FILE", "JOIN", "LABEL", "SECRET_KEYS", "SECRET_KEYS_FILE", "TOKEN"];
    let stack = [&files[..], &stack].concat();
    for (file, own) in [("compose.yaml", &compose[..]), ("docker/stack.yaml", &stack)] {
        let (set, passed_on) = environment(file);
        let unknown: Vec<_> = set.difference(&of_a_node).collect();
        assert!(unknown.is_empty(), "{file} sets {unknown:?}, which are no settings");
        let own: BTreeSet<_> = differs.iter().chain(own).map(|name| format!("BROADCAST_{name}")).collect();
        let expected: BTreeSet<_> = of_a_node.difference(&own).cloned().collect();
        assert_eq!(passed_on, expected, "{file} passes settings on, and docs/demo.md and docs/operations.md say which");
    }
}

#[test]
fn what_compose_reads_itself_is_no_unknown_setting() {
    let read_by_compose: BTreeSet<_> = ["compose.yaml", "docker/stack.yaml"]
        .iter()
        .flat_map(|file| read(&repository(file)).split("${").skip(1).flat_map(variables).collect::<Vec<_>>())
        .filter(|variable| !all_settings().contains_key(variable))
        .collect();
    assert_eq!(read_by_compose, OF_COMPOSE.map(String::from).into());
    let node = Process::node_with(&[], &OF_COMPOSE.map(|variable| (variable, "x")));
    node.addr();
    let warned = node.log.lines().into_iter().find(|line| line["event"] == "unknown_setting");
    assert_eq!(warned, None);
}

/// All files in a folder, and in those in it.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

#[test]
fn whatever_names_a_variable_names_one_that_there_is() {
    let settings = all_settings();
    let mut files: Vec<_> = ["docs", "docker", "examples", "scripts", "src"]
        .iter()
        .flat_map(|folder| files_in(&repository(folder)))
        .collect();
    files.extend(["README.md", "SECURITY.md", "CONTRIBUTING.md", "compose.yaml"].map(repository));
    let mut wrong = Vec::new();
    for file in files {
        // Pictures are no text.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        // Tests of what is no setting name some.
        let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for variable in variables(text) {
            let known = OF_COMPOSE.iter().chain(&OTHERS).any(|other| variable == *other) || variable.starts_with(TESTS);
            match settings.get(&variable) {
                None if !known => wrong.push(format!("{}: {variable}", file.display())),
                Some(Setting { flag: Some(flag), .. }) => {
                    let beginning = format!("{variable} (");
                    let named = text.split(&beginning).skip(1).filter_map(|rest| rest.split(')').next());
                    let flags = named.filter(|flag| flag.starts_with("--"));
                    wrong.extend(flags.filter(|other| *other != flag).map(|other| format!("{variable} ({other})")));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "these are no settings:\n{}", wrong.join("\n"));
}

#[test]
fn help_is_read_as_it_is_meant() {
    assert_eq!(bounds("8 to 1024 letters, at most 512 bytes, at least x"), ["8", "1024", "512"]);
    let named = variables("`BROADCAST_A_B`=1, ${BROADCAST_C:-d} BROADCAST_ and BROADCASTS");
    assert_eq!(named, ["BROADCAST_A_B", "BROADCAST_C"].map(String::from).into());
    assert_eq!(rows("| a | | c |\n|---|---|---|\n"), [["a", "", "c"]]);
}
