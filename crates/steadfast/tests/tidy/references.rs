//! What pages and comments name is there, and nothing names what it should not.

use super::{Source, none, root, sources, walk};
use std::fs;

/// Folders of the repository: a back-ticked path that begins with one of them is a promise.
const FOLDERS: [&str; 6] = ["crates/", "docs/", "tests/", "examples/", "bench/", ".ci/"];

/// What comments say, or a whole page.
fn said(source: &Source) -> Vec<(usize, &str)> {
    let page = source.path.ends_with(".md");
    let numbered = source.text.lines().enumerate();
    numbered.filter(|(_, line)| page || line.trim_start().starts_with("//")).collect()
}

/// The paths of the repository that a line names in back-ticks. `crates/NAME/x.rs` and `docs/*.md`
/// stand for many and name none.
fn named_paths(line: &str) -> Vec<&str> {
    let quoted = line.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|path| FOLDERS.iter().any(|folder| path.starts_with(folder)));
    let placeholder = |path: &str| {
        path.contains(['*', '{', '<', ' '])
            || path
                .split(['/', '.'])
                .any(|part| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_uppercase()))
    };
    paths.filter(|path| !placeholder(path)).collect()
}

/// The relative paths that a comment links to.
fn linked_paths(line: &str) -> Vec<&str> {
    let targets = super::links(line).into_iter();
    targets.filter(|target| target.contains('/') && !target.contains("::")).collect()
}

/// Whether a path that `source` names is there: from the root, or from the crate that names it.
fn exists(source: &Source, path: &str) -> bool {
    let crate_folder = source.path.split('/').take(2).collect::<Vec<_>>().join("/");
    root().join(path).exists() || root().join(crate_folder).join(path).exists()
}

#[test]
fn what_pages_and_comments_name_is_there() {
    let mut stale = Vec::new();
    for source in sources(&[".md", ".rs"]) {
        let folder = root().join(&source.path).parent().expect("a folder").to_owned();
        let comment = source.path.ends_with(".rs");
        for (number, line) in said(&source) {
            let named = named_paths(line).into_iter().filter(|path| !exists(&source, path));
            let linked = linked_paths(line).into_iter();
            let linked = linked.filter(|path| comment && !folder.join(path).exists());
            for path in named.chain(linked) {
                stale.push(format!("{}:{}: nothing is at `{path}`", source.path, number + 1));
            }
        }
    }
    none(&stale);
}

#[test]
fn the_reference_check_can_fail() {
    let line = "see `crates/guard/src/gone.rs`, `docs/errors/CODE.md` and [it](../docs/gone.md)";
    assert_eq!(named_paths(line), ["crates/guard/src/gone.rs"]);
    assert_eq!(linked_paths(line), ["../docs/gone.md"]);
    assert!(linked_paths("the [breaker](crate::breaker) and [x](super::x)").is_empty());
    let text = "/// one\nlet two = 2;\n    // three\n".to_owned();
    let source = Source { path: "crates/guard/src/lib.rs".to_owned(), text };
    assert_eq!(said(&source).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 2]);
    assert!(exists(&source, "tests/it/main.rs") && exists(&source, "crates/store"));
    assert!(!exists(&source, "crates/guard/src/gone.rs"));
}

/// What no file may hold. Pieced together, so that this one does not.
fn forbidden() -> Vec<(String, &'static str)> {
    let machine = "a folder of one machine";
    let registry = "a package registry: name the package, not the place";
    let hand = "how it was written, which is nobody's business";
    let pieces: [(&[&str], &'static str); 14] = [
        (&["/wo", "rk/"], machine),
        (&["/ro", "ot/"], machine),
        (&["/ho", "me/"], machine),
        (&["/Us", "ers/"], machine),
        (&["crates", ".io"], registry),
        (&["py", "pi.org"], registry),
        (&["python", "hosted.org"], registry),
        (&["registry", ".npmjs"], registry),
        (&["proxy.go", "lang.org"], registry),
        (&["Co-Auth", "ored-By"], hand),
        (&["Co-auth", "ored-by"], hand),
        (&["generated ", "by "], hand),
        (&["generated ", "with "], hand),
        (&["Cop", "ilot"], hand),
    ];
    pieces.into_iter().map(|(piece, why)| (piece.concat(), why)).collect()
}

/// Whether a text holds the needle as a word of its own: `report/work/` is no folder of a machine.
fn holds(text: &str, needle: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '.';
    text.match_indices(needle).any(|(at, _)| !text[..at].ends_with(inside))
}

#[test]
fn no_file_knows_a_machine_a_registry_or_how_it_was_written() {
    let forbidden = forbidden();
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        // The lock file names where each package comes from; the licences are not ours to word.
        if name == "Cargo.lock" || name.starts_with("LICENSE") {
            return;
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        for (needle, why) in forbidden.iter().filter(|(needle, _)| holds(&text, needle)) {
            found.push(format!("{name}: `{needle}` names {why}"));
        }
    });
    none(&found);
}

#[test]
fn the_word_check_can_fail() {
    for (needle, _) in forbidden() {
        assert!(holds(&format!("see {needle}x"), &needle));
    }
    let folder = &forbidden()[0].0;
    assert!(holds(&format!("{folder}x"), folder) && holds(&format!("`{folder}x`"), folder));
    assert!(!holds(&format!("demo{folder}report.md"), folder));
}
