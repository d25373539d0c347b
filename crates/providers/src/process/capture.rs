//! Output kept within a limit: its head and its tail.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Collects bytes without ever holding more than its limit: the first half of it, and the last.
#[derive(Debug)]
pub struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Capture {
    /// Keeps at most `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            half: (limit_bytes / 2).max(1),
            head: Vec::new(),
            tail: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Takes more.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.half - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let surplus = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..surplus);
        self.left_out += surplus as u64;
    }

    /// How many bytes were not kept.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The text, with a line that says how much is missing in the middle. What is not UTF-8 is shown as
    /// replacement characters.
    #[must_use]
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if self.left_out == 0 {
            let mut all = self.head.clone();
            all.extend_from_slice(&tail);
            return String::from_utf8_lossy(&all).into_owned();
        }
        format!(
            "{}\n[... {} bytes left out ...]\n{}",
            String::from_utf8_lossy(&self.head),
            self.left_out,
            String::from_utf8_lossy(&tail)
        )
    }

    /// Reads to the end. If dropped, what was read so far is here.
    pub(super) async fn fill<R: AsyncRead + Unpin>(&mut self, reader: Option<R>) {
        let Some(mut reader) = reader else { return };
        let mut buffer = vec![0; 16 * 1024];
        // A pipe that fails is a pipe that has ended.
        while let Ok(read) = reader.read(&mut buffer).await {
            if read == 0 {
                return;
            }
            self.push(&buffer[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Capture;

    #[test]
    fn short_output_is_kept_whole() {
        let mut capture = Capture::new(10);
        capture.push(b"hello");
        capture.push(b"world");
        assert_eq!(capture.text(), "helloworld");
        assert_eq!(capture.left_out(), 0);
    }

    #[test]
    fn long_output_keeps_head_and_tail_and_says_how_much_is_missing() {
        let mut capture = Capture::new(10);
        for byte in b'a'..=b'z' {
            capture.push(&[byte]);
        }
        assert_eq!(capture.left_out(), 16);
        assert_eq!(capture.text(), "abcde\n[... 16 bytes left out ...]\nvwxyz");
    }
}
