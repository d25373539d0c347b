//! A number beside a stored value that changes with every bit of it: SQLite has no checksums of its own, and
//! a bit that flips inside a value would be handed out as if it had been written so.
//!
//! A row of an older store has no seal and is not checked.

use super::writer::Failure;

/// The seal of a value: of its place, its numbers and its bytes.
pub(super) fn seal(numbers: &[i64], parts: &[&[u8]]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Whether a value that was read is the one that was written.
pub(super) fn is_whole(stored: Option<i64>, numbers: &[i64], parts: &[&[u8]]) -> bool {
    stored.is_none_or(|stored| stored == seal(numbers, parts))
}

/// What is said about one that is not.
pub(super) fn broken(what: &str) -> Failure {
    Failure::Damaged(format!("{what} is not what was written; restore it from a backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_the_value_and_its_place_alone() {
        let sealed = seal(&[1, 2], &[b"ab", b"c"]);
        assert_eq!(sealed, seal(&[1, 2], &[b"ab", b"c"]));
        let others =
            [seal(&[1, 3], &[b"ab", b"c"]), seal(&[1, 2], &[b"a", b"bc"]), seal(&[1, 2], &[b"ab"])];
        assert!(!others.contains(&sealed));
        assert!(is_whole(None, &[1], &[]) && !is_whole(Some(sealed), &[1], &[]));
    }
}
