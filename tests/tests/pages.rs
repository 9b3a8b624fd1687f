// SPDX-License-Identifier: Apache-2.0
//! Pages of the book that come from the program, the proto files and the error pages. `just fix` writes them.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use atomix_chaos::program;

const NOTICE: &str = "<!-- Written by `just fix`; held by `cargo test -p atomix-tests --test pages`. -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a page with its file; writes the file instead if `ATOMIX_TEST_WRITE` is set.
fn hold(path: &str, page: &str) {
    let file = root().join(path);
    if std::env::var_os("ATOMIX_TEST_WRITE").is_some() {
        std::fs::write(file, page).unwrap();
    } else {
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(written == page, "{path} is out of date: `just fix` writes it again");
    }
}

/// The files below a folder with an ending, in the order of their paths.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

// === Commands ===

/// The help of a command, without an environment that it could show.
fn help(verbs: &[&str]) -> String {
    let output = Command::new(program()).env_clear().args(verbs).arg("-h").output().unwrap();
    assert!(output.status.success(), "{verbs:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that a help lists.
fn verbs(help: &str) -> Vec<&str> {
    let section = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| line.starts_with("  "));
    let verbs =
        lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").collect()
}

/// A help without the options that all commands share.
fn own(help: &str) -> String {
    let own = help.split("\nGlobal options:").next().unwrap();
    let lines = own.lines().filter(|line| !line.contains("Print help"));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.trim_end().trim_end_matches("\nOptions:").trim_end().to_owned()
}

fn describe(page: &mut String, path: &[&str]) {
    let help = help(path);
    let verbs = verbs(&help);
    if verbs.is_empty() || path.len() == 1 {
        let level = "#".repeat(path.len() + 1);
        write!(page, "\n{level} atomix {}\n\n```text\n{}\n```\n", path.join(" "), own(&help)).unwrap();
    }
    for verb in verbs {
        describe(page, &[path, &[verb]].concat());
    }
}

#[test]
fn the_page_of_commands_is_the_help_of_the_program() {
    let general = help(&[]);
    let shared = general.split("\nGlobal options:\n").nth(1).expect("options of all commands");
    let mut page = format!(
        "{NOTICE}# Commands\n\n`atomix COMMAND --help` explains more than this summary. All commands have \
         these options:\n\n```text\n{}\n```\n",
        shared.trim_end()
    );
    for verb in verbs(&general) {
        describe(&mut page, &[verb]);
    }
    hold("docs/reference/cli.md", &page);
}

// === API ===

/// One line of a table of fields, methods or values.
struct Row {
    cells: Vec<String>,
    comment: String,
}

/// A service, a message or an enum, with its lines.
struct Block {
    kind: &'static str,
    name: String,
    comment: String,
    rows: Vec<Row>,
}

fn code(text: &str) -> String {
    format!("`{}`", text.trim())
}

/// Takes the declarations of a proto file as they are formatted in this repository: one on each line.
fn blocks(text: &str) -> Vec<Block> {
    let (mut done, mut open, mut comment): (Vec<Block>, Vec<Block>, Vec<&str>) =
        (Vec::new(), Vec::new(), Vec::new());
    // The names of messages around the current line; a `oneof` adds nothing to a name.
    let mut nesting: Vec<Option<String>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("//") {
            comment.push(words.trim());
            continue;
        }
        let description = std::mem::take(&mut comment).join(" ");
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let kind = match first {
            "service" => "service",
            "message" => "message",
            "enum" => "enum",
            "oneof" => {
                nesting.push(None);
                continue;
            }
            "}" => {
                if nesting.pop().flatten().is_some() {
                    done.extend(open.pop());
                }
                continue;
            }
            "rpc" => {
                let declaration = line.trim_start_matches("rpc ").trim_end_matches([';', ' ']);
                let (name, rest) = declaration.split_once('(').unwrap();
                let (request, rest) = rest.split_once(')').unwrap();
                let response = rest.trim().trim_start_matches("returns").trim().trim_matches(['(', ')']);
                let cells = vec![code(name), code(request), code(response)];
                open.last_mut().unwrap().rows.push(Row { cells, comment: description });
                continue;
            }
            _ => {
                let field = line.strip_suffix(';').and_then(|field| field.split_once(" = "));
                if let (Some((field, number)), Some(block)) = (field, open.last_mut()) {
                    let number = number.split(" [").next().unwrap().to_owned();
                    let cells = match field.rsplit_once(' ') {
                        Some((of, name)) => vec![code(name), code(of), number],
                        None => vec![code(field), number],
                    };
                    block.rows.push(Row { cells, comment: description });
                }
                continue;
            }
        };
        let name = second.trim_end_matches(['{', '}']);
        let name = open.last().map_or_else(|| name.to_owned(), |around| format!("{}.{name}", around.name));
        open.push(Block { kind, name: name.clone(), comment: description, rows: Vec::new() });
        if line.ends_with('}') {
            done.extend(open.pop());
        } else {
            nesting.push(Some(name));
        }
    }
    assert!(open.is_empty() && nesting.is_empty(), "a declaration that is not closed");
    done
}

fn table(page: &mut String, heads: &[&str], rows: &[Row]) {
    let with_comments = rows.iter().any(|row| !row.comment.is_empty());
    let mut heads = heads.to_vec();
    if with_comments {
        heads.push("Meaning");
    }
    write!(page, "| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len())).unwrap();
    for row in rows {
        let mut cells = row.cells.clone();
        if with_comments {
            cells.push(row.comment.replace('|', "\\|"));
        }
        writeln!(page, "| {} |", cells.join(" | ")).unwrap();
    }
}

#[test]
fn the_page_of_the_api_is_that_of_the_proto_files() {
    let mut page = format!(
        "{NOTICE}# API\n\nThe gRPC services of both ports, from the comments in `proto/`. Services of \
         `atomix.runtime` are the contract\nwith existing clients; reflection on each port lists the \
         services of that port. [Error reasons](errors.md) are in\nthe status details.\n"
    );
    for path in files(&root().join("proto"), ".proto") {
        let text = std::fs::read_to_string(&path).unwrap();
        let package =
            text.lines().find_map(|line| line.strip_prefix("package ")).unwrap().trim_end_matches(';');
        let blocks = blocks(&text);
        for service in blocks.iter().filter(|block| block.kind == "service") {
            write!(page, "\n## {package}.{}\n\n{}\n\n", service.name, service.comment).unwrap();
            table(&mut page, &["Method", "Request", "Response"], &service.rows);
        }
        if blocks.iter().all(|block| block.kind != "service") {
            write!(page, "\n## {package}\n").unwrap();
        }
        for block in blocks.iter().filter(|block| block.kind != "service" && !block.rows.is_empty()) {
            write!(page, "\n**{}**", block.name).unwrap();
            let comment =
                if block.comment.is_empty() { String::new() } else { format!(": {}", block.comment) };
            write!(page, "{comment}\n\n").unwrap();
            let heads: &[&str] =
                if block.kind == "enum" { &["Value", "Number"] } else { &["Field", "Type", "Number"] };
            table(&mut page, heads, &block.rows);
        }
    }
    hold("docs/reference/api.md", &page);
}

// === Error reasons ===

#[test]
fn the_index_of_error_reasons_is_that_of_their_pages() {
    let mut page = format!(
        "{NOTICE}# Error reasons\n\nEvery error carries a stable reason in its status details \
         (`google.rpc.ErrorInfo`), such as `LOCK_TIMEOUT`. Each reason has\na page with its gRPC code, its \
         meaning, and the next step. `UNAVAILABLE` always means *certainly not applied*; a write that\nmay \
         have been applied is `UNKNOWN` ([OUTCOME_UNKNOWN](../errors/OUTCOME_UNKNOWN.md)) or `DEADLINE_EXCEEDED`.\n\n\
         | Reason | gRPC code | Meaning |\n|---|---|---|\n"
    );
    for path in files(&root().join("docs/errors"), ".md") {
        let reason = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(format!("# {reason}").as_str()));
        let meaning = lines.find(|line| !line.is_empty()).unwrap();
        let code = lines.find_map(|line| line.strip_prefix("gRPC code: ")).expect("a gRPC code");
        writeln!(page, "| [{reason}](../errors/{reason}.md) | {code} | {meaning} |").unwrap();
    }
    hold("docs/reference/errors.md", &page);
}
