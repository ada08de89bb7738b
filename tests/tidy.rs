//! The rules of this house that a program can check. Each is shown to fail on planted text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

const LINES_PER_FILE: usize = 500;
const LINES_PER_FUNCTION: usize = 70;
const COLUMNS: usize = 100;

/// Files that are longer, and why.
const LONG: &[(&str, &str)] = &[
    ("src/transport/message.rs", "one codec, written and read side by side"),
    ("src/node/mod.rs", "the contract of the core in one place"),
];

fn sources(under: &[&str], ending: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    let mut open: Vec<PathBuf> = under.iter().map(|name| root.join(name)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.to_string_lossy().ends_with(ending) {
            let text = std::fs::read_to_string(&path).unwrap();
            all.push((path.strip_prefix(root).unwrap().to_owned(), text));
        }
    }
    all.sort();
    assert!(!all.is_empty(), "nothing under {under:?}");
    all
}

fn rust() -> Vec<(PathBuf, String)> {
    sources(
        &[
            "src",
            "fuzz",
            "fuzz-targets",
            "transports",
            "benches",
            "examples",
            "sim",
            "tests",
            "xtask",
        ],
        ".rs",
    )
    .into_iter()
    .filter(|(path, _)| !path.to_string_lossy().contains("/target/"))
    .collect()
}

/// The code of a line: without comment and without what stands in quotes.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '\'' if !quoted && chars.clone().nth(1) == Some('\'') => drop(chars.nth(1)),
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    out
}

fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

fn banned_words(text: &str, words: &[&str]) -> Vec<String> {
    let lines = text.lines().take_while(|line| !line.contains("cfg(test)")).enumerate();
    let found = lines.flat_map(|(number, line)| {
        let code = code(line);
        let hits: Vec<_> = words.iter().filter(|word| has_word(&code, word)).collect();
        hits.into_iter().map(move |word| format!("line {}: {word}", number + 1)).collect::<Vec<_>>()
    });
    found.collect()
}

fn long_functions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = code(line);
        if let Some((began, name, at)) = &open {
            let ends = indent == *at && line.trim_start().starts_with('}');
            if ends {
                let lines = number - began + 1;
                if lines > LINES_PER_FUNCTION {
                    found.push(format!("line {}: {name} has {lines} lines", began + 1));
                }
                open = None;
            }
        } else if has_word(&words, "fn")
            && words.contains('(')
            && !words.trim_end().ends_with(';')
            && !words.trim_end().ends_with('}')
        {
            let name = words.split("fn ").nth(1).unwrap_or_default();
            open = Some((
                number,
                name.split(['(', '<']).next().unwrap_or_default().to_owned(),
                indent,
            ));
        }
    }
    found
}

fn fail_with(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn each(files: Vec<(PathBuf, String)>, check: impl Fn(&Path, &str) -> Vec<String>) {
    let problems = files.iter().flat_map(|(path, text)| {
        let found = check(path, text);
        found
            .into_iter()
            .map(|problem| format!("{}: {problem}", path.display()))
            .collect::<Vec<_>>()
    });
    fail_with(problems.collect());
}

/// Spelt so that this file does not hold it.
const SKIPPED: &str = concat!("ign", "ore");

const AMBIENT: &[&str] = &[
    "async",
    "await",
    "Instant",
    "SystemTime",
    "thread",
    "fastrand",
    "rand",
    "HashMap",
    "HashSet",
    "runtime",
    "smol",
    "tokio",
    "async_std",
];

#[test]
fn the_core_and_the_membership_name_no_clock_runtime_chance_or_async() {
    each(sources(&["src/node", "src/membership"], ".rs"), |_, text| banned_words(text, AMBIENT));
    assert_eq!(banned_words("fn f() {\n    Instant::now();\n}", AMBIENT), ["line 2: Instant"]);
    assert_eq!(banned_words("// async\nlet a = \"async\";", AMBIENT), [""; 0]);
}

fn names_the_engine(text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let engine = |line: &str| {
        let code = code(line);
        let path = code.match_indices("raft::").any(|(at, _)| {
            let before = code[..at].chars().next_back();
            !before.is_some_and(|c| c == ':' || c == '_' || c.is_alphanumeric())
        });
        path || has_word(&code, "eraftpb") || has_word(&code, "protobuf")
    };
    lines
        .filter(|(_, line)| engine(line))
        .map(|(n, line)| format!("line {}: {line}", n + 1))
        .collect()
}

#[test]
fn only_the_core_names_the_engine() {
    each(sources(&["src", "transports", "examples"], ".rs"), |path, text| {
        if path.starts_with("src/node") { Vec::new() } else { names_the_engine(text) }
    });
    assert_eq!(names_the_engine("use raft::RawNode;").len(), 1);
    assert_eq!(names_the_engine("use crate::raft::Raft;").len(), 0);
}

#[test]
fn files_functions_and_lines_are_short() {
    each(rust(), |path, text| {
        let mut problems = long_functions(text);
        let lines = text.lines().count();
        let excused = LONG.iter().any(|(name, _)| Path::new(name) == path);
        match (lines > LINES_PER_FILE, excused) {
            (true, false) => problems.push(format!("{lines} lines")),
            (false, true) => problems.push(format!("{lines} lines need no excuse")),
            _ => {}
        }
        let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS);
        problems.extend(wide.map(|(number, _)| format!("line {} is too wide", number + 1)));
        problems
    });
    let long = format!("fn long() {{\n{}}}\n", "    let a = 1;\n".repeat(70));
    assert_eq!(long_functions(&long), ["line 1: long has 72 lines"]);
}

#[test]
fn nothing_is_left_undone_and_no_example_is_skipped() {
    let undone = [concat!("to", "do!("), concat!("unim", "plemented!("), concat!("#[ig", "nore")];
    each(rust(), |_, text| {
        let found = undone.iter().filter(|mark| text.contains(**mark));
        let mut problems: Vec<String> = found.map(|mark| format!("contains {mark}")).collect();
        let skipped = text.lines().filter(|line| line.contains("```") && has_word(line, SKIPPED));
        problems.extend(skipped.map(|line| format!("a skipped example: {line}")));
        problems
    });
}

#[test]
fn runtime_adapters_and_the_readme_are_short() {
    for name in ["async_std", "smol", "tokio"] {
        let (_, text) = &sources(&["src/runtime"], &format!("runtime/{name}.rs"))[0];
        assert!(text.lines().count() < 150, "{name}");
    }
    let (_, readme) = &sources(&["README.md"], "README.md")[0];
    assert!(readme.lines().count() <= 150);
    let (_, hello) = &sources(&["examples/hello.rs"], ".rs")[0];
    assert!(hello.lines().count() < 60, "hello has {} lines", hello.lines().count());
    let program = hello.split_once("\nuse ").unwrap().1;
    assert!(readme.contains(program), "the README's program is examples/hello.rs");
}

#[test]
fn every_feature_has_a_line_in_the_docs() {
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.unwrap();
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = features.lines().filter_map(|line| line.split_once(" = ").map(|(name, _)| name));
    let (_, docs) = &sources(&["src/lib.rs"], ".rs")[0];
    let missing =
        names.filter(|name| *name != "default" && !docs.contains(&format!("//! - `{name}`:")));
    fail_with(missing.map(str::to_owned).collect());
}

/// Words in backquotes that look like a path of this repository and are none.
fn dead_paths(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let roots = ["src/", "docs/", "tests/", "examples/", "transports/", "xtask/"];
    let paths = quoted.filter(|word| roots.iter().any(|root| word.starts_with(root)));
    paths.filter(|path| !path.contains(' ') && !exists(path)).map(str::to_owned).collect()
}

#[test]
fn paths_in_the_docs_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exists = |path: &str| root.join(path).exists();
    each(sources(&["docs", "README.md"], ".md"), |_, text| dead_paths(text, exists));
    assert_eq!(dead_paths("see `src/nowhere.rs` and `src/lib.rs`", exists), ["src/nowhere.rs"]);
}

/// What is wrong with a table of pitfalls: each has one row, which names tests (a path, then
/// functions of that file that carry the number in their comment), or says why there is none.
fn bad_pitfalls(text: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| P"));
    let mut problems = Vec::new();
    let mut next = 1;
    for row in rows {
        let mut cells = row.split(" | ");
        let number = cells.next().unwrap_or_default();
        let here = cells.nth(1).unwrap_or_default();
        if number != next.to_string() {
            problems.push(format!("P{number} stands in the place of P{next}"));
        }
        next += 1;
        if ["owed by ", "cannot occur: "].iter().any(|excuse| here.starts_with(excuse)) {
            continue;
        }
        let (mut source, mut tests) = (String::new(), 0);
        for word in here.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                source = read(word);
                continue;
            }
            tests += 1;
            if !carries(&source, word, number) {
                problems.push(format!("P{number}: no {word} with that number"));
            }
        }
        if tests == 0 {
            problems.push(format!("P{number}: neither a test nor an excuse"));
        }
    }
    if next != 64 {
        problems.push(format!("{} rows", next - 1));
    }
    problems
}

/// Whether there is a function whose comment names the pitfall.
fn carries(source: &str, function: &str, number: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let named = format!("fn {function}(");
    let Some(at) = lines.iter().position(|line| line.contains(&named)) else { return false };
    let above = lines[..at].iter().rev();
    let mut above = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
    above.any(|line| line.starts_with("///") && has_word(line, &format!("P{number}")))
}

#[test]
fn the_tests_of_pitfalls_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    each(sources(&["docs"], "testing.md"), |_, text| bad_pitfalls(text, read));
    let source = "/// P2.\n#[test]\nfn good() {}\n/// P1.\nfn of_another() {}\n";
    let table = "| P1 | x | owed by y |\n| P2 | x | `a.rs` `good`, `of_another`, `gone` |\n\
                 | P4 | x | nothing |\n";
    let expected = [
        "P2: no of_another with that number",
        "P2: no gone with that number",
        "P4 stands in the place of P3",
        "P4: neither a test nor an excuse",
        "3 rows",
    ];
    assert_eq!(bad_pitfalls(table, |_| source.to_owned()), expected);
}

/// Without white space, comments and attributes, so that only the words count.
fn bare(code: &str) -> String {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let words: String = lines.filter(|line| !line.starts_with("#[")).collect();
    words.replace(char::is_whitespace, "").replace(",)", ")").replace(",}", "}")
}

/// Declarations in the blocks of a page that are not those of the source.
fn stale_declarations(page: &str, source: &str) -> Vec<String> {
    let source = bare(source);
    let blocks = page.split("```rust,no_run\n").skip(1);
    let blocks = blocks.map(|block| bare(block.split("```").next().unwrap_or_default()));
    // A signature without what follows it: its body, or the end of the declaration.
    let parts = blocks
        .flat_map(|block| block.split([';', '{', '}']).map(str::to_owned).collect::<Vec<_>>());
    parts.filter(|part| !part.starts_with("use") && !source.contains(part.as_str())).collect()
}

/// What a trait, struct or enum has, each by its name: methods, fields or variants.
fn names_in(declaration: &str, text: &str) -> Option<Vec<String>> {
    let head =
        |line: &&str| line.split([':', '{']).next().unwrap_or_default().trim() == declaration;
    let mut lines = text.lines().skip_while(|line| !head(line));
    if lines.next()?.ends_with('}') {
        return Some(Vec::new());
    }
    let inside = lines.take_while(|line| *line != "}").filter_map(|line| line.strip_prefix("    "));
    let names = inside.map(|line| {
        let words = ["pub ", "async ", "fn "];
        let line = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
        line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    });
    Some(names.filter(|name| !name.is_empty()).collect())
}

/// What a page leaves out of the declarations in it.
fn missing_in_declarations(page: &str, source: &str) -> Vec<String> {
    let blocks = page.split("```rust,no_run\n").skip(1);
    let blocks: String =
        blocks.map(|block| block.split("```").next().unwrap_or_default()).collect();
    let kinds = ["pub trait ", "pub struct ", "pub enum "];
    let heads = blocks.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
    let heads = heads.map(|line| line.split([':', '{', ';']).next().unwrap_or_default().trim());
    let missing = heads.flat_map(|head| {
        let told = names_in(head, &blocks).unwrap_or_default();
        let all = names_in(head, source).unwrap_or_default();
        let missing = all.into_iter().filter(move |name| !told.contains(name));
        missing.map(move |name| format!("{head} lacks {name}"))
    });
    missing.collect()
}

#[test]
fn declarations_in_the_docs_are_those_of_the_source() {
    let sources = sources(&["src/runtime", "src/transport"], ".rs");
    let source: Vec<&str> = sources.iter().map(|(_, text)| text.as_str()).collect();
    let source = source.join("\n");
    let pages = crate::sources(&["docs"], ".md").into_iter();
    let pages = pages.filter(|(path, _)| path.to_string_lossy().contains("writing-a-"));
    each(pages.collect(), |_, text| {
        [stale_declarations(text, &source), missing_in_declarations(text, &source)].concat()
    });
    let page = "```rust,no_run\npub trait Net {\n    fn dial(&self, port: u16);\n}\n```";
    assert_eq!(stale_declarations(page, "pub trait Net { fn dial(&self, port: u16); }"), [""; 0]);
    let stale = stale_declarations(page, "pub trait Net { fn dial(&self, address: &str); }");
    assert_eq!(stale, ["fndial(&self,port:u16)"]);
    let more = "pub trait Net: Send {\n    async fn listen(\n    ) -> u16;\n\n    fn dial();\n}";
    assert_eq!(missing_in_declarations(page, more), ["pub trait Net lacks listen"]);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let elsewhere = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp", "/kw")];
    let mut files = rust();
    files.extend(sources(&["docs", "README.md", "CHANGELOG.md"], ".md"));
    files.extend(sources(&["Cargo.toml", "deny.toml", "clippy.toml"], ".toml"));
    each(files, |_, text| {
        let found = elsewhere.iter().filter(|path| text.contains(**path));
        found.map(|path| format!("names {path}")).collect()
    });
}
