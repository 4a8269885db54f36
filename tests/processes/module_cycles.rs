//! No modules know each other in a circle.
//!
//! # The rule
//!
//! Look at any module of a crate and at its children, each with all that is in it. If a file of child `a` names
//! something of child `b`, that is an arrow from `a` to `b`; and the arrows between the children of one module must not
//! form a circle. So neither siblings may form one, nor cousins by way of their parents.
//!
//! A module and what it contains are one thing seen from two distances: that a parent re-exports what its children
//! have, and that children add methods to the type of their parent (`use super::Node`), is no arrow. But what a
//! parent only has from one of its children counts as that child's, by whatever name it is taken: `use
//! super::Message` is an arrow to `message`, and so is `use crate::dissemination::Message`.
//!
//! Arrows are all paths that begin with `crate`, `self` or `super`, in `use` and elsewhere. What is only there in tests
//! is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::repository;

#[test]
fn no_modules_form_a_circle() {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository("."));
    let output = command.args(["metadata", "--no-deps", "--locked", "--offline", "--format-version", "1"]).output();
    let output = output.expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let (mut modules, mut circles) = (0, Vec::new());
    for package in metadata["packages"].as_array().expect("a workspace has packages") {
        for target in package["targets"].as_array().expect("a package has targets") {
            let is = |wanted| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == wanted));
            if is("lib") || is("bin") {
                let name = package["name"].as_str().expect("it has a name");
                let root = target["src_path"].as_str().expect("it has a source");
                let code = Crate::read(Path::new(root));
                modules += code.modules.len();
                circles.extend(code.circles().into_iter().map(|(parent, circle)| (name.to_owned(), parent, circle)));
            }
        }
    }
    assert!(modules > 100, "{modules} modules are not all of them");
    assert!(circles.is_empty(), "{circles:#?}");
}

/// From the crate's root; empty for the root itself.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    /// Names that it has from elsewhere, and from where; `None` from another crate.
    imports: BTreeMap<String, Option<ModulePath>>,
    /// Whatever it names, as a path from the root.
    named: BTreeSet<ModulePath>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut files = vec![(Vec::new(), root.to_path_buf())];
        let mut sources = Vec::new();
        let mut this = Self::default();
        while let Some((path, file)) = files.pop() {
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let tokens = without_tests(&tokens(&text));
            this.modules.insert(path.clone(), Module::default());
            for name in this.declare(&path, &tokens) {
                let at: ModulePath = path.iter().cloned().chain([name.clone()]).collect();
                files.push((at, file_of(&file, path.is_empty(), &name)));
            }
            sources.push((path, tokens));
        }
        for (path, tokens) in sources {
            this.take_paths(&path, &tokens);
        }
        this
    }

    /// Enters the modules that stand in this one, and gives the names of those that have a file.
    fn declare(&mut self, path: &[String], tokens: &[String]) -> Vec<String> {
        let mut files = Vec::new();
        for (at, within) in inside(path, tokens) {
            let [word, name, next, ..] = &tokens[at..] else { break };
            if word == "mod" && next == ";" {
                assert_eq!(within, path, "{name} has no place that this test knows");
                files.push(name.clone());
            } else if word == "mod" && next == "{" {
                self.modules.insert(within.into_iter().chain([name.clone()]).collect(), Module::default());
            }
        }
        files
    }

    fn take_paths(&mut self, path: &[String], tokens: &[String]) {
        let mut taken = 0;
        for (at, within) in inside(path, tokens) {
            if at < taken {
                continue;
            }
            match tokens[at].as_str() {
                // Not what a returned type captures, `impl Trait + use<T>`.
                "use" if tokens[at + 1] != "<" => {
                    let mut found = Vec::new();
                    taken = use_tree(tokens, at + 1, &[], &mut found);
                    for (segments, name) in found {
                        let absolute = self.absolute(&within, &segments);
                        let module = self.modules.get_mut(&within).expect("it was declared");
                        module.named.extend(absolute.clone());
                        module.imports.insert(name, absolute);
                    }
                }
                "crate" | "self" | "super" if tokens.get(at + 1).is_some_and(|next| next == "::") => {
                    let mut segments = vec![tokens[at].clone()];
                    let mut rest = tokens[at + 1..].chunks_exact(2);
                    segments.extend(rest.by_ref().map_while(|pair| (pair[0] == "::").then(|| pair[1].clone())));
                    taken = at + 2 * segments.len() - 1;
                    let absolute = self.absolute(&within, &segments);
                    self.modules.get_mut(&within).expect("it was declared").named.extend(absolute);
                }
                _ => {}
            }
        }
    }

    /// From the root; `None` for what is in another crate.
    fn absolute(&self, within: &[String], segments: &[String]) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut base = within.to_vec();
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
                if rest.first().is_some_and(|next| next == "super") {
                    return self.absolute(&base, rest);
                }
            }
            name => {
                base.push(name.into());
                if !self.modules.contains_key(&base) {
                    return None;
                }
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The module that has what a path names: the module itself, or the one where the item is written.
    fn home(&self, path: &[String], steps: usize) -> Option<ModulePath> {
        assert!(steps < 20, "{path:?} leads round and round");
        let mut module = Vec::new();
        for (at, name) in path.iter().enumerate() {
            let child: ModulePath = module.iter().cloned().chain([name.clone()]).collect();
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            return match self.modules[&module].imports.get(name) {
                Some(Some(elsewhere)) => {
                    let path: ModulePath = elsewhere.iter().chain(&path[at + 1..]).cloned().collect();
                    self.home(&path, steps + 1)
                }
                Some(None) => None,
                None => Some(module),
            };
        }
        Some(module)
    }

    /// Each as the module whose children form it, and `one → another → one`.
    fn circles(&self) -> BTreeSet<(String, String)> {
        let mut arrows: BTreeMap<&[String], BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.modules {
            for to in module.named.iter().filter_map(|path| self.home(path, 0)) {
                let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                    arrows.entry(&from[..common]).or_default().entry(one).or_default().insert(other.clone());
                }
            }
        }
        let mut circles = BTreeSet::new();
        for (parent, arrows) in &arrows {
            for start in arrows.keys() {
                if let Some(circle) = shortest_circle(arrows, start) {
                    let parent = if parent.is_empty() { "crate".into() } else { parent.join("::") };
                    circles.insert((parent, circle.join(" → ")));
                }
            }
        }
        circles
    }
}

/// The shortest way from a module back to itself, written from its first name in the alphabet, so that it is the same
/// from wherever it is entered.
fn shortest_circle(arrows: &BTreeMap<&str, BTreeSet<String>>, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for next in arrows.get(last.as_str()).into_iter().flatten() {
                if next == start {
                    let first = (0..way.len()).min_by_key(|at| &way[*at])?;
                    let around = way.iter().cycle().skip(first).take(way.len() + 1);
                    return Some(around.cloned().collect());
                }
                if seen.insert(next.clone()) {
                    longer.push(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The file of a module that is declared in another.
fn file_of(parent: &Path, is_root: bool, name: &str) -> PathBuf {
    let beside = parent.parent().expect("a file is in a directory");
    let stem = parent.file_stem().expect("a file has a name");
    let directory = if is_root || stem == "mod" { beside.to_path_buf() } else { beside.join(stem) };
    let whole = directory.join(name).join("mod.rs");
    if whole.exists() { whole } else { directory.join(name).with_extension("rs") }
}

/// Each token's place, with the module that it stands in.
fn inside(path: &[String], tokens: &[String]) -> Vec<(usize, ModulePath)> {
    let mut open = Vec::new();
    let mut within = path.to_vec();
    let mut places = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        places.push((at, within.clone()));
        match token.as_str() {
            "{" => {
                let is_module = at >= 2 && tokens[at - 2] == "mod";
                if is_module {
                    within.push(tokens[at - 1].clone());
                }
                open.push(is_module);
            }
            "}" if open.pop() == Some(true) => drop(within.pop()),
            _ => {}
        }
    }
    places
}

/// Takes what one tree of a `use` names, as paths with the names they get; gives the place behind it.
fn use_tree(tokens: &[String], mut at: usize, before: &[String], found: &mut Vec<(ModulePath, String)>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, found);
                    at += usize::from(tokens[at] == ",");
                }
                return at + 1;
            }
            "*" => {
                // All of a module is a path to the module.
                found.push((path, "*".into()));
                return at + 1;
            }
            "as" => {
                found.push((path, tokens[at + 1].clone()));
                return at + 2;
            }
            ";" | "," | "}" => {
                let name = path.last().cloned().unwrap_or_default();
                found.push((path, name));
                return at;
            }
            // `{self, …}` names the module itself.
            "self" if !path.is_empty() => at += 1,
            segment => {
                path.push(segment.into());
                at += 1;
            }
        }
    }
}

/// Without the items that are only there in tests.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] != "#" || tokens.get(at + 1).is_none_or(|next| next != "[") {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let (attribute, behind) = group(tokens, at + 1);
        let is_test = ["[cfg(test)", "[cfg(all(test"].iter().any(|test| attribute.starts_with(test));
        at = if is_test { end_of_item(tokens, behind) } else { behind };
    }
    kept
}

/// The text of the bracketed group that begins there, and the place behind it.
fn group(tokens: &[String], at: usize) -> (String, usize) {
    let (mut depth, mut text) = (0, String::new());
    for (place, token) in tokens.iter().enumerate().skip(at) {
        text += token;
        match token.as_str() {
            "[" | "(" | "{" => depth += 1,
            "]" | ")" | "}" => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return (text, place + 1);
        }
    }
    (text, tokens.len())
}

/// The place behind the item, field or statement that begins there.
fn end_of_item(tokens: &[String], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" | "," => return at + 1,
            "}" => return at,
            "{" => {
                let is_use = tokens[..at].iter().rev().take_while(|token| *token != ";").any(|token| token == "use");
                at = group(tokens, at).1;
                if !is_use {
                    return at;
                }
            }
            "(" | "[" => at = group(tokens, at).1,
            _ => at += 1,
        }
    }
    at
}

/// Words, `::`, and every other sign by itself; without comments and texts.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = literal(rest) {
            len
        } else if is_word(first) {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else {
            let len = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(rest[..len].to_owned());
            }
            len
        };
        rest = &rest[len..];
    }
    tokens
}

/// The length of the text or character that begins there, if one does.
fn literal(rest: &str) -> Option<usize> {
    let body = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - body.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let quoted = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(rest.len() - quoted.len() + quoted.find(&end)? + end.len());
    }
    let quote = body.chars().next().filter(|first| ['"', '\''].contains(first))?;
    let mut chars = body.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            _ if c == quote => return Some(prefix + at + 1),
            // A lifetime, unless the quote is closed behind one character.
            _ if quote == '\'' && !body[at + c.len_utf8()..].starts_with('\'') => return None,
            _ => {}
        }
    }
    None
}
