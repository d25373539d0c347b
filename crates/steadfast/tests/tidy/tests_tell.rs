//! A test can fail, and what it says it shows exists.

use std::collections::BTreeSet;

use super::{Source, none, sources};

/// A function with its body.
struct Function<'a> {
    name: &'a str,
    is_test: bool,
    body: String,
}

/// The functions of a file, formatted as rustfmt does: a body ends where its indentation is met again.
fn functions(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some((before, after)) = trimmed.split_once("fn ") else { continue };
        let words = ["pub", "pub(crate)", "pub(super)", "async", "const"];
        let name = after.split(['(', '<']).next().unwrap_or_default();
        let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        // What a macro names is written out elsewhere.
        if !before.split_whitespace().all(|word| words.contains(&word)) || !named {
            continue;
        }
        let closing = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let in_one_line = trimmed.ends_with('}') || trimmed.ends_with(';');
        let end = lines[start..].iter().position(|line| *line == closing);
        let length = end.filter(|_| !in_one_line).unwrap_or(0);
        let attributes = lines[..start].iter().rev().map(|line| line.trim_start());
        let mut attributes = attributes.take_while(|line| line.starts_with('#'));
        let is_test = attributes.any(|line| {
            let path = line.trim_start_matches("#[").split(['(', ']']).next();
            path.is_some_and(|path| path == "test" || path.ends_with("::test"))
        });
        let body = lines[start + usize::from(length > 0)..=start + length].iter();
        let body = body.map(|line| line.split("//").next().unwrap_or_default());
        found.push(Function { name, is_test, body: body.collect::<Vec<_>>().join("\n") });
    }
    found
}

/// What is called in a body: every word before an opening parenthesis.
fn called(body: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    body.match_indices('(').filter_map(move |(at, _)| {
        let name = body[..at].rsplit(|c| !word(c)).next();
        name.filter(|name| !name.is_empty())
    })
}

/// Whether a body itself can end a test.
fn fails_by_itself(body: &str) -> bool {
    let marks = [
        "assert!(",
        "assert_eq!(",
        "assert_ne!(",
        "panic!(",
        ".expect(",
        ".expect_err(",
        ".unwrap()",
        ".unwrap_err()",
        "unreachable!(",
        "?;",
        "?.",
        "?)",
    ];
    marks.iter().any(|mark| body.contains(mark))
}

/// The functions of a file that can end a test: by themselves, or through one that can. `imported` are
/// those of other files.
fn biting<'a>(functions: &[Function<'a>], imported: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let mut teeth = imported.clone();
    loop {
        let before = teeth.len();
        for function in functions {
            let bites = fails_by_itself(&function.body)
                || called(&function.body).any(|name| teeth.contains(name));
            if bites {
                teeth.insert(function.name);
            }
        }
        if teeth.len() == before {
            return teeth;
        }
    }
}

/// The tests of a file that cannot fail: nothing in them asserts, and nothing that they call does,
/// whether it is of the file or imported into it from `neighbours`.
fn toothless<'a>(text: &'a str, neighbours: &[&'a str]) -> Vec<&'a str> {
    let imports = text.split("\nuse crate::").skip(1);
    let imports: Vec<&str> = imports.filter_map(|rest| rest.split(';').next()).collect();
    let is_imported = |name: &&str| {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        imports.iter().any(|import| import.split(|c| !word(c)).any(|part| part == *name))
    };
    let of_neighbours =
        neighbours.iter().flat_map(|text| biting(&functions(text), &BTreeSet::new()));
    let imported = of_neighbours.filter(is_imported).collect();
    let functions = functions(text);
    let teeth = biting(&functions, &imported);
    let tests = functions.iter().filter(|function| function.is_test);
    tests.map(|test| test.name).filter(|name| !teeth.contains(name)).collect()
}

/// The other files of a folder.
fn neighbours<'a>(files: &'a [Source], path: &str) -> Vec<&'a str> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let beside =
        files.iter().filter(|file| file.path != path && folder(&file.path) == folder(path));
    beside.map(|file| &*file.text).collect()
}

#[test]
fn every_test_can_fail() {
    let mut found = Vec::new();
    let mut tests = 0;
    let files = sources(&[".rs"]);
    for Source { path, text } in &files {
        tests += functions(text).iter().filter(|function| function.is_test).count();
        for name in toothless(text, &neighbours(&files, path)) {
            found.push(format!("{path}: `{name}` asserts nothing"));
        }
    }
    none(&found);
    assert!(tests > 200, "{tests} tests found: the check is broken");
}

#[test]
fn the_check_of_tests_can_fail() {
    let text = "
    #[TEST]
    fn bare() {
        let x = 1;
        drop(x); // assert!(false)
    }

    #[tokio::TEST(start_paused = true)]
    #[cfg(unix)]
    async fn idle() {
        wait().await;
    }

    async fn wait() {}

    fn none() { panic!() }

    #[TEST]
    fn in_one() {
        none();
    }

    #[TEST]
    fn direct() {
        assert_eq!(1, 1);
    }

    #[TEST]
    fn through_two() {
        one();
    }

    fn one() {
        two(3);
    }

    fn two(x: u8) {
        assert!(x > 2);
    }

    proptest! {
        #[TEST]
        fn drawn(x in 0..3) {
            prop_assert!(x < 3);
        }
    }
";
    // Marked so that the check does not take them for tests of this file.
    let text = text.replace("TEST", "test");
    assert_eq!(toothless(&text, &[]), ["bare", "idle"]);
    assert_eq!(functions(&text).iter().filter(|function| function.is_test).count(), 6);
}

#[test]
fn a_test_may_assert_through_what_it_imports() {
    let text =
        "\nuse crate::program::{refused, started};\n\n#[TEST]\nfn far() {\n    refused(1);\n}\n";
    let text = text.replace("TEST", "test");
    let neighbour = "fn refused(x: u8) {\n    assert!(x > 0);\n}\nfn started() {}\n";
    assert_eq!(toothless(&text, &[]), ["far"]);
    assert!(toothless(&text, &[neighbour]).is_empty());
    assert_eq!(toothless(&text.replace("refused,", ""), &[neighbour]), ["far"]);
    assert_eq!(toothless(&text.replace("refused(1)", "started()"), &[neighbour]), ["far"]);
}

/// How many rows each part of the scope has.
const SCOPE: [(char, u32); 4] = [('r', 18), ('g', 12), ('p', 13), ('c', 14)];

/// Whether a row is in the scope: `r10`, `C3`.
fn in_scope(id: &str) -> bool {
    let mut letters = id.chars();
    let part = letters.next().map(|letter| letter.to_ascii_lowercase());
    let row: Option<u32> = letters.as_str().parse().ok();
    SCOPE.iter().any(|(known, rows)| {
        part == Some(*known) && row.is_some_and(|row| (1..=*rows).contains(&row))
    })
}

/// The row that a test's name begins with, if it begins with one letter and a number.
fn row_of(name: &str) -> Option<&str> {
    let row = name.split('_').next()?;
    let number = row.strip_prefix(|letter: char| letter.is_ascii_lowercase())?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(row)
}

/// The rows that a line names after the word.
fn rows_named(line: &str) -> Vec<&str> {
    let lists = line.split("SCOPE ").skip(1);
    let rows = lists.flat_map(|list| {
        let list = list.split([')', ':', ';', '`', '"', '.']).next().unwrap_or_default();
        list.split([',', ' ']).take_while(|word| {
            word.is_empty()
                || (word.bytes().skip(1).all(|byte| byte.is_ascii_digit()) && word.len() > 1)
        })
    });
    rows.filter(|row| !row.is_empty()).collect()
}

#[test]
fn the_scope_rows_that_are_named_exist() {
    let mut wrong = Vec::new();
    for Source { path, text } in sources(&[".rs", ".md"]) {
        let functions = functions(&text);
        let tests = functions.iter().filter(|function| function.is_test);
        let rows = tests.filter_map(|test| row_of(test.name));
        for row in rows.chain(text.lines().flat_map(rows_named)).filter(|row| !in_scope(row)) {
            wrong.push(format!("{path}: the scope has no row `{row}`"));
        }
    }
    none(&wrong);
}

#[test]
fn the_check_of_scope_rows_can_fail() {
    assert!(in_scope("r18") && in_scope("C14") && in_scope("g1"));
    assert!(!in_scope("r19") && !in_scope("r0") && !in_scope("x1") && !in_scope("p"));
    assert_eq!(row_of("r19_it_waits"), Some("r19"));
    assert_eq!(row_of("s1_it_waits"), Some("s1"));
    assert_eq!(row_of("a_run_waits"), None);
    assert_eq!(row_of("r_a_run_waits"), None);
    assert_eq!(rows_named("(after SCOPE C8, C10, C11), it"), ["C8", "C10", "C11"]);
    assert_eq!(rows_named("(SCOPE R3). Then 5 more; a SCOPE of its own"), ["R3"]);
}
