//! Every source file belongs to a crate.

use std::collections::BTreeSet;

use super::{Source, none, sources};

/// Files that cargo begins with.
fn is_beginning(path: &str) -> bool {
    let tests = path.contains("/tests/") && path.matches('/').count() == 4;
    path.ends_with("/src/lib.rs")
        || path.ends_with("/src/main.rs")
        || (tests && path.ends_with("/main.rs"))
}

/// The modules that a file declares without a body.
fn declared(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim).filter_map(|line| line.strip_suffix(';'));
    let names = lines.filter_map(|line| {
        let (visibility, name) = line.rsplit_once("mod ")?;
        let alone =
            visibility.is_empty() || (visibility.starts_with("pub") && visibility.ends_with(' '));
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (alone && plain).then_some(name)
    });
    names.collect()
}

/// Where a module that `path` declares may lie.
fn places(path: &str, module: &str) -> [String; 2] {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.trim_end_matches(".rs");
    let below = if is_beginning(path) || stem == "mod" {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    [format!("{below}/{module}.rs"), format!("{below}/{module}/mod.rs")]
}

/// The files that no `mod` leads to.
fn dead(files: &[Source]) -> Vec<&str> {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&Source> = files.iter().filter(|file| is_beginning(&file.path)).collect();
    while let Some(file) = open.pop() {
        if !reached.insert(&file.path) {
            continue;
        }
        for module in declared(&file.text) {
            let places = places(&file.path, module);
            open.extend(files.iter().filter(|file| places.contains(&file.path)));
        }
    }
    files.iter().map(|file| &*file.path).filter(|path| !reached.contains(path)).collect()
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    let mut files = sources(&[".rs"]);
    files.retain(|file| file.path.contains("/src/") || file.path.contains("/tests/"));
    let dead = dead(&files);
    none(&dead.iter().map(|path| format!("{path}: no `mod` leads here")).collect::<Vec<_>>());
}

#[test]
fn the_dead_file_check_can_fail() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let files = [
        file(
            "crates/a/src/lib.rs",
            "pub mod one;\nmod two;\n// mod three;\npub(crate) mod five;\n",
        ),
        file("crates/a/src/one.rs", "#[cfg(test)]\nmod tests;\n"),
        file("crates/a/src/one/tests.rs", ""),
        file("crates/a/src/two/mod.rs", "mod four;\n"),
        file("crates/a/src/two/four.rs", ""),
        file("crates/a/src/three.rs", ""),
        file("crates/a/src/five.rs", ""),
        file("crates/a/src/tests.rs", ""),
    ];
    assert_eq!(dead(&files), ["crates/a/src/three.rs", "crates/a/src/tests.rs"]);
}
