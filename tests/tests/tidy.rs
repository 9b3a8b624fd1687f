// SPDX-License-Identifier: Apache-2.0
//! Checks that the linter does not have: arrows between crates, licence lines, lengths, words, documents.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files that git tracks, by their path from the root.
fn tracked(ending: &str) -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    listed.split('\0').filter(|path| path.ends_with(ending)).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Folder by crate, and the crates of the house that each one uses outside of its tests.
fn arrows() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut arrows = BTreeMap::new();
    for path in tracked("Cargo.toml") {
        let folder = path.trim_end_matches("/Cargo.toml").to_owned();
        if path == "Cargo.toml" || ["bench", "fuzz"].contains(&folder.as_str()) {
            continue;
        }
        let manifest = read(&path);
        let (mut name, mut section, mut uses) = (String::new(), "", BTreeSet::new());
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if section == "[package]" && line.starts_with("name") {
                line.split('"').nth(1).unwrap().clone_into(&mut name);
            } else if section == "[dependencies]" && line.starts_with("atomix-") {
                uses.insert(line.split(['.', ' ', '=']).next().unwrap().to_owned());
            }
        }
        arrows.insert(name, (folder, uses));
    }
    arrows
}

#[test]
fn arrows_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("atomix-env", &[][..]),
        ("atomix-config", &["atomix-env"]),
        ("atomix-proto", &[]),
        ("atomix-store", &["atomix-env"]),
        ("atomix-engine", &["atomix-env", "atomix-store"]),
        ("atomix-remote", &["atomix-env", "atomix-store"]),
        ("atomix-linearizability", &[]),
        ("atomix-servers", &["atomix-env"]),
        ("atomix-conformance", &["atomix-engine", "atomix-env", "atomix-store"]),
        ("atomix-primitives", &["atomix-env", "atomix-store"]),
        ("atomix-runtime", &["atomix-config", "atomix-env", "atomix-store", "atomix-primitives"]),
        ("atomix-transport", &["atomix-env"]),
        (
            "atomix-grpc",
            &[
                "atomix-config",
                "atomix-env",
                "atomix-store",
                "atomix-primitives",
                "atomix-proto",
                "atomix-runtime",
                "atomix-transport",
            ],
        ),
        ("atomix-client", &["atomix-env", "atomix-proto"]),
        ("atomix-load", &["atomix-env", "atomix-proto"]),
        ("atomix-cli", &["atomix-client", "atomix-env", "atomix-load"]),
        // It records histories as a client does.
        (
            "atomix-chaos",
            &["atomix-client", "atomix-conformance", "atomix-linearizability", "atomix-servers"],
        ),
        ("atomix-tests", &[]),
    ]);
    for (name, (folder, uses)) in arrows() {
        let allowed: BTreeSet<String> = if folder.starts_with("crates/drivers/") {
            let shared = if ["memory", "disk"].iter().any(|embedded| folder.ends_with(embedded)) {
                "atomix-engine"
            } else {
                "atomix-remote"
            };
            ["atomix-env", "atomix-store", shared].map(str::to_owned).into()
        } else if name == "atomix" {
            continue;
        } else {
            let allowed =
                allowed.get(name.as_str()).unwrap_or_else(|| panic!("a crate without arrows: {name}"));
            allowed.iter().map(|name| (*name).to_owned()).collect()
        };
        let wrong: Vec<_> = uses.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{name} must not use {wrong:?}");
    }
}

/// The words and marks of a source, without comments and literals.
fn tokens(source: &str) -> Vec<&str> {
    let (mut rest, mut found) = (source, Vec::new());
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let unfenced = rest[word..].trim_start_matches('#');
        let begin = rest.len() - unfenced.len();
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if ["r", "br"].contains(&&rest[..word]) && unfenced.starts_with('"') {
            let end = format!("\"{}", &rest[word..begin]);
            rest = &unfenced[1 + unfenced[1..].find(&end).unwrap() + end.len()..];
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|letter| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            });
            rest = &rest[end.unwrap() + 2..];
        } else if rest.starts_with("'\\") {
            rest = &rest[4 + rest[3..].find('\'').unwrap()..];
        } else if first == '\'' {
            let letter = rest[1..].chars().next().unwrap().len_utf8();
            rest = &rest[if rest[1 + letter..].starts_with('\'') { letter + 2 } else { 1 }..];
        } else {
            let length = if word > 0 { word } else { first.len_utf8() };
            let length = if rest.starts_with("::") { 2 } else { length };
            if !first.is_whitespace() {
                found.push(&rest[..length]);
            }
            rest = &rest[length..];
        }
    }
    found
}

/// The paths of two and more words that a source names, each with the number of modules around it inside the file,
/// and the modules in other files that only tests have. Leaves out the modules of tests.
fn paths<'a>(tokens: &[&'a str]) -> (Vec<(usize, Vec<&'a str>)>, Vec<&'a str>) {
    let is_word = |token: &&str| token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
    let (mut at, mut depth, mut found, mut tests) = (0, 0, Vec::new(), Vec::new());
    let (mut modules, mut groups, mut test_module) = (Vec::new(), Vec::<(i32, Vec<&str>)>::new(), None);
    let mut path = Vec::new();
    while at < tokens.len() {
        let next = |ahead: usize| tokens.get(at + ahead).copied().unwrap_or_default();
        let of_tests = tokens[..at].ends_with(&["#", "[", "cfg", "(", "test", ")", "]"]);
        match tokens[at] {
            "mod" if next(2) == ";" && of_tests => tests.push(next(1)),
            "mod" if next(2) == "{" => {
                if of_tests {
                    test_module.get_or_insert(depth);
                }
                modules.push(depth);
                at += 1;
            }
            "{" => {
                depth += 1;
                if !path.is_empty() {
                    let outer = groups.last().map_or(&[][..], |(_, outer)| outer);
                    let whole = [outer, &std::mem::take(&mut path)].concat();
                    groups.push((depth, whole));
                }
            }
            "}" => {
                groups.pop_if(|(opened, _)| *opened == depth);
                depth -= 1;
                modules.pop_if(|opened| *opened == depth);
                test_module = test_module.filter(|opened| *opened != depth);
            }
            "::" if !path.is_empty() && (next(1) == "{" || is_word(&next(1))) => {}
            token if is_word(&token) => {
                path.push(token);
                let outer = groups.last().map_or(&[][..], |(_, outer)| outer);
                let ends = next(1) != "::" || !(next(2) == "{" || is_word(&next(2)));
                let whole = [outer, &path].concat();
                if ends {
                    path.clear();
                    // A module that a macro names is a parameter.
                    let parameter = next(1) == "::" && next(2) == "$";
                    if test_module.is_none() && !parameter && (whole.len() > 1 || next(1) == "::") {
                        found.push((modules.len(), whole));
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    (found, tests)
}

/// The files of a crate that each of its files names outside of tests. A module is a file or a folder; a parent
/// that only declares its children names none of them.
fn imports(folder: &str, sources: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let module = |path: &str| -> Vec<String> {
        let inner = path[folder.len()..].trim_start_matches("/src/").trim_end_matches(".rs");
        let mut words: Vec<String> = inner.split('/').map(str::to_owned).collect();
        words.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
        words
    };
    let files: BTreeMap<Vec<String>, &String> = sources.iter().map(|path| (module(path), path)).collect();
    let (mut named, mut tests) = (BTreeMap::new(), BTreeSet::new());
    for (own, path) in &files {
        let source = read(path);
        let (paths, only_tests) = paths(&tokens(&source));
        tests.extend(only_tests.iter().map(|name| [own.clone(), vec![(*name).to_owned()]].concat()));
        let mut targets = BTreeSet::new();
        for (inside, words) in paths {
            let (mut from, mut inside, mut rest) = (own.clone(), inside, &words[..]);
            match rest[0] {
                "crate" => from.clear(),
                "self" | "super" => {}
                first if files.contains_key(&[own.clone(), vec![first.to_owned()]].concat()) => {}
                _ => continue,
            }
            while let Some((first, after)) =
                rest.split_first().filter(|(first, _)| ["crate", "self", "super"].contains(first))
            {
                rest = after;
                if *first == "super" && inside > 0 {
                    inside -= 1;
                } else if *first == "super" {
                    from.pop();
                }
            }
            for word in rest {
                let deeper = [from.clone(), vec![(*word).to_owned()]].concat();
                if !files.keys().any(|known| known.starts_with(&deeper)) {
                    break;
                }
                from = deeper;
            }
            if let Some(target) = files.get(&from).filter(|target| *target != path) {
                targets.insert((*target).clone());
            }
        }
        named.insert((*path).clone(), targets);
    }
    let tests: BTreeSet<&String> = tests.iter().filter_map(|module| files.get(module).copied()).collect();
    named.retain(|path, _| !tests.contains(path));
    named
}

/// Crates whose files still import each other.
const CIRCLES: &[&str] = &["testing/chaos", "testing/conformance", "testing/linearizability"];

#[test]
fn files_of_a_crate_have_no_circles() {
    let sources = tracked(".rs");
    let mut circles = Vec::new();
    for (folder, _) in arrows().into_values().filter(|(folder, _)| !CIRCLES.contains(&folder.as_str())) {
        let inner: Vec<String> =
            sources.iter().filter(|path| path.starts_with(&format!("{folder}/src/"))).cloned().collect();
        let mut named = imports(&folder, &inner);
        // Takes away the files that name none of the rest, and those that none of the rest names.
        loop {
            let used: BTreeSet<String> = named.values().flatten().cloned().collect();
            let known: BTreeSet<String> = named.keys().cloned().collect();
            let before = named.len();
            named.retain(|path, targets| used.contains(path) && !targets.is_disjoint(&known));
            if named.len() == before {
                break;
            }
        }
        let known: BTreeSet<String> = named.keys().cloned().collect();
        for (path, targets) in &named {
            for target in targets.intersection(&known) {
                circles.push(format!("{path} -> {target}"));
            }
        }
    }
    assert!(circles.is_empty(), "files that import each other:\n{}", circles.join("\n"));
}

#[test]
fn every_dependency_of_the_workspace_has_a_user() {
    let manifests: String =
        tracked("Cargo.toml").iter().filter(|path| *path != "Cargo.toml").map(|path| read(path)).collect();
    let workspace = read("Cargo.toml");
    let declared = workspace.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for name in declared.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
        let uses = [format!("\n{name}.workspace = true"), format!("\n{name} = {{ workspace = true")];
        assert!(uses.iter().any(|used| manifests.contains(used)), "no crate uses {name}");
    }
}

#[test]
fn every_source_begins_with_its_licence() {
    for path in tracked(".rs").into_iter().chain(tracked(".proto")) {
        assert!(read(&path).starts_with("// SPDX-License-Identifier: Apache-2.0\n"), "{path}");
    }
}

#[test]
fn files_stay_readable() {
    for path in tracked(".rs") {
        let lines = read(&path).lines().count();
        assert!(lines <= 1200, "{path} has {lines} lines: split it");
    }
}

#[test]
fn nothing_is_left_for_later() {
    for path in tracked(".rs") {
        if path == "tests/tests/tidy.rs" {
            continue;
        }
        for (at, line) in read(&path).lines().enumerate() {
            let marks = ["TODO", "FIXME", "XXX", "for now", "unimplemented!", "todo!("];
            assert!(!marks.iter().any(|mark| line.contains(mark)), "{path}:{}: {line}", at + 1);
        }
    }
}

#[test]
fn file_names_are_specific() {
    let banned = ["manager", "helper", "util", "utils", "common", "misc"];
    for path in tracked(".rs") {
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(!banned.contains(&stem.as_str()), "{path}");
    }
}

/// The anchor that GitHub and mdBook give a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
}

/// The anchors of a document; lines in blocks of code are no headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut code, mut found) = (false, BTreeSet::new());
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if !code && line.starts_with('#') {
            found.insert(anchor(line));
        }
    }
    found
}

/// The targets of the links of a document that are paths.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.contains(' '))
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in tracked(".md") {
        let file = root().join(&path);
        for link in links(&read(&path)) {
            let (target, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { file.clone() } else { file.parent().unwrap().join(target) };
            assert!(target.exists(), "{path} links to {link}");
            if !place.is_empty() {
                let headings = anchors(&std::fs::read_to_string(&target).unwrap());
                assert!(headings.contains(place), "{path} links to {link}; headings: {headings:?}");
            }
        }
    }
}

#[test]
fn the_book_has_every_document_once() {
    let summary = read("docs/SUMMARY.md");
    let mut listed: Vec<String> = links(&summary).map(|target| format!("docs/{target}")).collect();
    listed.sort_unstable();
    let pages =
        tracked(".md").into_iter().filter(|path| path.starts_with("docs/") && !path.ends_with("SUMMARY.md"));
    let mut pages: Vec<String> = pages.collect();
    pages.sort_unstable();
    assert_eq!(listed, pages, "docs/SUMMARY.md");
}

/// Words that documents do not use, and the reason or the term to use instead. `CONTRIBUTING.md` has the glossary.
const BANNED: &[(&str, &str)] = &[
    ("nobody", "components are no persons"),
    ("somebody", "components are no persons"),
    ("anybody", "components are no persons"),
    ("everybody", "components are no persons"),
    ("whoever", "components are no persons"),
    ("told", "gets, receives, sees"),
    ("bury", "recovery"),
    ("burial", "recovery"),
    ("mourn", "recovery"),
    ("patience", "timeout, deadline"),
    ("time-out", "timeout"),
    ("fail-over", "failover"),
];

/// A document without its code and without the tables that `bench/compare` writes.
fn prose(text: &str) -> String {
    let own = text.split("<!-- compare begins -->").next().unwrap();
    let outside = own.split("```").step_by(2).collect::<String>();
    outside.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn documents_use_the_terms_of_the_glossary() {
    // The help of the program, and the glossary itself.
    let others = ["docs/reference/cli.md", "CONTRIBUTING.md"];
    for path in tracked(".md").into_iter().filter(|path| !others.contains(&path.as_str())) {
        let prose = prose(&read(&path));
        for word in prose.split(|letter: char| !letter.is_alphanumeric() && letter != '-') {
            let found = BANNED.iter().find(|(banned, _)| word.to_lowercase() == *banned);
            assert!(found.is_none(), "{path}: {found:?}");
        }
        for line in prose.lines() {
            let begins = line.trim_start_matches(['#', '*', '-', '|', ' ']).starts_with("What ");
            assert!(!begins, "{path} has a line that begins with \"What\": {line}");
            let sentence = [". What ", ": What ", "| What "].iter().any(|start| line.contains(start));
            assert!(!sentence, "{path} has a sentence that begins with \"What\": {line}");
        }
    }
}

/// Folders whose comments are held to [`DIALECT`]. Each folder that is rewritten joins.
const PLAIN: &[&str] = &[
    "bench/",
    "bin/",
    "crates/cli/",
    "crates/client/",
    "crates/config/",
    "crates/drivers/",
    "crates/env/",
    "crates/engine/",
    "crates/remote/",
    "testing/conformance/",
    "testing/linearizability/",
    "testing/servers/",
    "crates/store/",
    "crates/load/",
    "crates/primitives/",
    "crates/runtime/",
    "crates/grpc/",
    "crates/transport/",
    "crates/proto/tests/",
    "tests/",
    "testing/chaos/",
];

/// Words that comments do not use, with the reason and the folders where that is enforced so far. With `^` the word
/// must not begin a line.
const DIALECT: &[(&str, &str, &[&str])] = &[
    ("^What", "begin with a verb or a noun phrase", PLAIN),
    ("^Whatever", "begin with a verb or a noun phrase", PLAIN),
    ("^Where", "begin with a verb or a noun phrase", PLAIN),
    ("^Who", "name the component that acts", PLAIN),
    ("^Whoever", "name the component that acts", PLAIN),
    ("whoever", "name the component that acts", PLAIN),
    ("nobody", "components are no persons", PLAIN),
    ("somebody", "components are no persons", PLAIN),
    ("anybody", "components are no persons", PLAIN),
    ("everybody", "components are no persons", PLAIN),
    ("told", "gets, receives, is notified", PLAIN),
    ("tells", "returns, notifies, reports", PLAIN),
    ("says", "returns, reports, contains", PLAIN),
    ("patience", "timeout", PLAIN),
];

/// The text of a line that is a comment, without the code in it.
fn comment(line: &str) -> Option<String> {
    let text = line.trim_start().strip_prefix("//")?.trim_start_matches(['/', '!']);
    Some(text.split('`').step_by(2).collect::<Vec<_>>().join(" ").trim_start().to_owned())
}

#[test]
fn comments_use_plain_terms() {
    for path in tracked(".rs") {
        let words =
            DIALECT.iter().filter(|(_, _, folders)| folders.iter().any(|folder| path.starts_with(folder)));
        let words: Vec<_> = words.collect();
        for (at, line) in read(&path).lines().enumerate().filter(|_| !words.is_empty()) {
            let Some(text) = comment(line) else { continue };
            let in_text: Vec<&str> = text.split(|letter: char| !letter.is_alphanumeric()).collect();
            let found = words.iter().find(|(word, _, _)| match word.strip_prefix('^') {
                Some(first) => in_text.first() == Some(&first),
                None => in_text.iter().any(|used| used.to_lowercase() == *word),
            });
            assert!(found.is_none(), "{path}:{}: {found:?}: {line}", at + 1);
        }
    }
}

/// Folders whose identifiers and messages are held to [`NAMES`]. Each folder that is rewritten joins.
const NAMED: &[&str] = &[
    "bench/",
    "crates/cli/",
    "crates/client/",
    "crates/config/",
    "crates/drivers/disk/tests/",
    "crates/drivers/etcd/tests/",
    "crates/drivers/memory/",
    "crates/drivers/redis/tests/",
    "crates/engine/",
    "crates/grpc/",
    "crates/load/",
    "crates/proto/",
    "crates/transport/tests/",
    "testing/",
    "tests/",
];

/// Words that neither identifiers nor string literals use, with the term to use instead.
const NAMES: &[(&str, &str)] = &[
    ("anybody", "components are no persons"),
    ("burial", "recovery"),
    ("bury", "recovery"),
    ("deed", "call, change"),
    ("deeds", "calls, changes"),
    ("diary", "log"),
    ("everybody", "components are no persons"),
    ("fate", "outcome, expectation"),
    ("mercy", "name the reason"),
    ("mourn", "recovery"),
    ("nobody", "components are no persons"),
    ("patience", "timeout, deadline"),
    ("somebody", "components are no persons"),
    ("suffer", "inject, is affected"),
    ("suffers", "inject, is affected"),
    ("told", "reply, reported, answered"),
    ("trouble", "fault"),
    ("whoever", "components are no persons"),
];

/// The identifiers and string literals of a source, each with its line.
fn names(source: &str) -> Vec<(usize, &str)> {
    let (mut found, mut rest, mut line) = (Vec::new(), source, 1);
    while let Some(first) = rest.chars().next() {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let raw = rest.starts_with("r#\"");
        let end = if rest.starts_with("//") {
            rest.find('\n')
        } else if raw {
            rest.find("\"#").map(|end| end + 2)
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|letter| {
                let closes = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                closes
            });
            end.map(|end| end + 2)
        } else if rest.starts_with("'\"'") {
            Some(3)
        } else if is_word(first) {
            rest.find(|letter| !is_word(letter))
        } else {
            Some(first.len_utf8())
        };
        let (token, after) = rest.split_at(end.unwrap_or(rest.len()));
        if raw || first == '"' || is_word(first) {
            found.push((line, token));
        }
        line += token.matches('\n').count();
        rest = after;
    }
    found
}

/// The words of an identifier or a text, in lower case: `one_two`, `OneTwo` and `ONE two` are two words each.
fn words(text: &str) -> impl Iterator<Item = String> {
    let mut separated = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            separated.push(' ');
        }
        separated.push(if letter.is_alphanumeric() { letter } else { ' ' });
        before = letter;
    }
    separated.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

#[test]
fn identifiers_and_messages_use_plain_terms() {
    let held = |path: &String| NAMED.iter().any(|folder| path.starts_with(folder));
    for path in tracked(".rs").into_iter().filter(held).filter(|path| path != "tests/tests/tidy.rs") {
        for (line, name) in names(&read(&path)) {
            let found = words(name).find_map(|word| NAMES.iter().find(|(banned, _)| *banned == word));
            assert!(found.is_none(), "{path}:{line}: {found:?}: {name}");
        }
    }
}

#[test]
fn words_of_identifiers_are_found() {
    let source = "fn tell_told(Told: TOLD_MAX) { '\"'; \"a \\\"told\\\" b\"; r#\"told \"x\"\"# } // told";
    let found = names(source).into_iter().filter(|(_, name)| words(name).any(|word| word == "told"));
    assert_eq!(found.count(), 5);
}

#[test]
fn every_decision_has_a_number_of_its_own() {
    let decisions: Vec<String> =
        tracked(".md").into_iter().filter(|path| path.starts_with("docs/adr/")).collect();
    let numbers: BTreeSet<&str> = decisions.iter().map(|path| &path["docs/adr/".len()..][..4]).collect();
    assert_eq!(numbers.len(), decisions.len());
    for path in &decisions {
        assert!(read(path).lines().count() <= 60, "{path} is longer than a page");
        assert!(read(path).contains("**Decision.**"), "{path} does not begin with the decision");
    }
}
