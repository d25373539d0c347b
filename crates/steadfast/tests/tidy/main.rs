//! The house rules that a machine can see. Each check says which file and line, and what to do.

#![expect(clippy::expect_used, reason = "a check that cannot look must fail")]

mod references;
mod rooms;
mod tests_tell;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, and longest file without the tests at its end.
const FILE_LINES_MAX: usize = 800;
const CODE_LINES_MAX: usize = 500;
/// Longest function.
const FUNCTION_LINES_MAX: usize = 70;
/// Largest file that is no lock file, in bytes: a store that is kept as test data.
const FILE_BYTES_MAX: u64 = 300 * 1024;

struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every text file of the repository with one of these endings.
fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(path).expect("a source file is text");
            found.push(Source { path: name, text });
        }
    });
    assert!(!found.is_empty(), "no file with {endings:?}: the walk is broken");
    found
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.') && name != ".ci";
        if hidden || name == "target" || name == "steadfast-demo" {
            continue;
        }
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The dependencies of a crate, without those of its tests.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = root().join("crates").join(name).join("Cargo.toml");
    let text = fs::read_to_string(manifest).expect("every crate has a manifest");
    let section = text.split("[dependencies]").nth(1).expect("a section").to_owned();
    let section = section.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_arrow_only_ever_points_down() {
    let allowed: [(&str, &[&str]); 4] = [
        ("guard", &[]),
        ("store", &[]),
        ("providers", &["steadfast-guard"]),
        ("runtime", &["steadfast-guard", "steadfast-store", "steadfast-providers"]),
    ];
    for (name, allowed) in allowed {
        for dependency in dependencies(name) {
            let inside = dependency.starts_with("steadfast");
            assert!(!inside || allowed.contains(&&*dependency), "{name} may not use {dependency}");
        }
    }
    for foreign in ["reqwest", "axum", "hyper", "rusqlite", "serde_json", "http"] {
        let used = dependencies("guard").iter().any(|name| name == foreign);
        assert!(!used, "crates/guard knows no HTTP, SQL or JSON: remove {foreign}");
    }
    for foreign in ["axum", "clap", "toml"] {
        let used = dependencies("runtime").iter().any(|name| name == foreign);
        assert!(
            !used,
            "crates/runtime serves nothing and reads no configuration: remove {foreign}"
        );
    }
}

/// Lines before the tests at a file's end.
fn code_lines(text: &str) -> usize {
    text.lines().position(|line| line == "#[cfg(test)]").unwrap_or_else(|| text.lines().count())
}

#[test]
fn a_file_fits_in_a_head() {
    let mut long = Vec::new();
    for Source { path, text } in sources(&[".rs"]) {
        let (all, code) = (text.lines().count(), code_lines(&text));
        if all > FILE_LINES_MAX || (code > CODE_LINES_MAX && !path.contains("/tests")) {
            long.push(format!("{path}: {code} lines of code, {all} in all: make two rooms of it"));
        }
    }
    none(&long);
}

/// Functions longer than the limit: name and length.
fn long_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let words: Vec<&str> = trimmed.split_whitespace().collect();
        let is_function = words.iter().take(5).any(|word| *word == "fn")
            && ["pub", "fn", "async", "const", "pub(crate)", "pub(super)"]
                .contains(words.first().unwrap_or(&""));
        // A declaration ends without a body, be it over several lines.
        let ending = lines[start..].iter().find(|line| line.ends_with([';', '{']));
        if !is_function || ending.is_some_and(|line| line.ends_with(';')) {
            continue;
        }
        let indent = &line[..line.len() - trimmed.len()];
        let closing = format!("{indent}}}");
        let end = lines[start..].iter().position(|line| **line == closing);
        let length = end.map_or(1, |end| end + 1);
        if length > FUNCTION_LINES_MAX {
            long.push((trimmed.to_owned(), length));
        }
    }
    long
}

#[test]
fn a_function_fits_on_a_screen() {
    let mut long = Vec::new();
    for Source { path, text } in sources(&[".rs"]) {
        for (name, length) in long_functions(&text) {
            long.push(format!("{path}: {length} lines: {name}"));
        }
    }
    none(&long);
}

#[test]
fn the_function_check_can_fail() {
    let body = "    let x = 1;\n".repeat(FUNCTION_LINES_MAX);
    assert_eq!(long_functions(&format!("fn long() {{\n{body}}}\n")).len(), 1);
    assert!(long_functions("fn short() {\n    let x = 1;\n}\n").is_empty());
    let declared = format!("    fn declared(\n        a: u8,\n    ) -> u8;\n{body}    }}\n");
    assert!(long_functions(&declared).is_empty());
}

#[test]
fn nothing_is_left_over_and_no_room_has_a_vague_name() {
    let markers = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["dbg", "!("].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[ig", "nore"].concat(),
        ["should_", "panic"].concat(),
    ];
    let vague = ["util", "utils", "common", "helper", "helpers", "misc", "manager"];
    let mut found = Vec::new();
    for Source { path, text } in sources(&[".rs"]) {
        let stem = path.rsplit('/').next().and_then(|name| name.split('.').next());
        if stem.is_some_and(|stem| vague.contains(&stem)) {
            found.push(format!("{path}: name the room by what is in it"));
        }
        for (number, line) in text.lines().enumerate() {
            for marker in &markers {
                if line.contains(marker.as_str()) {
                    found.push(format!("{path}:{}: `{marker}` is left over", number + 1));
                }
            }
        }
    }
    none(&found);
}

#[test]
fn the_guard_reads_no_clock_but_tokios() {
    let clock = ["std::time::", "Instant"].concat();
    let found = sources(&[".rs"]).into_iter().filter(|source| {
        source.path.starts_with("crates/guard/src") && source.text.contains(&clock)
    });
    none(&found.map(|source| source.path).collect::<Vec<_>>());
}

/// The relative links of a page.
fn links(text: &str) -> Vec<&str> {
    let after = text.split("](").skip(1);
    let targets = after.filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

#[test]
fn every_link_leads_somewhere_and_every_page_has_one_title() {
    let mut wrong = Vec::new();
    for Source { path, text } in sources(&[".md"]) {
        let folder = root().join(&path).parent().expect("a folder").to_owned();
        for target in links(&text) {
            if !folder.join(target).exists() {
                wrong.push(format!("{path}: nothing is at `{target}`"));
            }
        }
        let prose = text.split("```").step_by(2).collect::<String>();
        let titles = prose.lines().filter(|line| line.starts_with("# ")).count();
        // What a model is told is a prompt, not a page.
        if titles != 1 && !path.ends_with("instructions.md") {
            wrong.push(format!("{path}: {titles} titles; a page has one"));
        }
    }
    none(&wrong);
}

#[test]
fn the_link_check_can_fail() {
    assert_eq!(links("see [a](docs/a.md#x) and [b](https://b.example)"), ["docs/a.md"]);
}

#[test]
fn every_error_code_has_a_page() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("is there");
    let runtime =
        ["error.rs", "access/ring.rs"].map(|file| read(&format!("crates/runtime/src/{file}")));
    let mut codes: BTreeSet<&str> = BTreeSet::new();
    for text in &runtime {
        let body = text.split("fn code(").nth(1).expect("codes are in `code`");
        let body = body.split("\n    }\n").next().unwrap_or_default();
        codes.extend(body.split('"').skip(1).step_by(2));
    }
    assert!(codes.len() >= 12 && codes.contains("key_expired"), "{codes:?}");
    // `Self::new(STATUS, "code", "Title", detail)`
    let server = read("crates/steadfast/src/server/problem.rs");
    let made = server.split("Self::new(").skip(1);
    codes.extend(made.filter_map(|made| made.split(')').next()?.split('"').nth(1)));
    assert!(codes.len() >= 17, "{codes:?}");
    let served = read("crates/steadfast/src/console/errors.rs");
    for code in &codes {
        let page = root().join("docs/errors").join(format!("{code}.md"));
        assert!(page.exists(), "docs/errors/{code}.md is missing: what happened, what to do");
        assert!(served.contains(&format!("\"{code}\"")), "console/errors.rs does not serve {code}");
    }
    for page in fs::read_dir(root().join("docs/errors")).expect("a folder").flatten() {
        let name = page.file_name().to_string_lossy().trim_end_matches(".md").to_owned();
        assert!(codes.contains(name.as_str()), "docs/errors/{name}.md explains no code");
    }
}

#[test]
fn no_file_is_large() {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let size = path.metadata().expect("is there").len();
        if size > FILE_BYTES_MAX && name != "Cargo.lock" {
            found.push(format!("{name}: {size} bytes"));
        }
    });
    none(&found);
}
