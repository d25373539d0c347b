//! The last lines that a server wrote to stderr, without its secrets.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

const MAX_LINES: usize = 20;
const MAX_LINE_BYTES: usize = 2000;
/// Shorter values ("1", "on") are words of any text.
const MIN_SECRET_CHARS: usize = 4;

#[derive(Debug)]
pub(super) struct StderrRing {
    secrets: Vec<String>,
    lines: Mutex<VecDeque<String>>,
}

impl StderrRing {
    /// Strikes out these values, and each line of those with many.
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a String>) -> Self {
        let mut secrets: Vec<String> = values
            .flat_map(|value| std::iter::once(value.as_str()).chain(value.lines()))
            .map(str::trim)
            .filter(|secret| secret.chars().count() >= MIN_SECRET_CHARS)
            .map(str::to_owned)
            .collect();
        // A secret that holds another one goes first, or a part of it would stay.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets, lines: Mutex::new(VecDeque::new()) }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"))
    }

    /// The lines as an appendix to a message.
    pub(super) fn appendix(&self) -> String {
        let lines = self.lines.lock();
        if lines.is_empty() {
            return String::new();
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        format!("; its last words on stderr:\n{}", lines.join("\n"))
    }

    fn push(&self, line: &[u8], cut: bool) {
        let line = self.redact(&String::from_utf8_lossy(line));
        let mut lines = self.lines.lock();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        // Where a line was cut a secret may have been cut too.
        lines.push_back(if cut { "[a line that is too long]".to_owned() } else { line });
    }

    /// Reads to the end.
    pub(super) async fn fill(&self, mut reader: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        let mut line = Vec::new();
        let mut cut = false;
        while let Ok(read) = reader.read(&mut buffer).await {
            if read == 0 {
                break;
            }
            for byte in &buffer[..read] {
                if *byte == b'\n' {
                    self.push(&line, cut);
                    line.clear();
                    cut = false;
                } else if line.len() < MAX_LINE_BYTES {
                    line.push(*byte);
                } else {
                    cut = true;
                }
            }
        }
        if !line.is_empty() {
            self.push(&line, cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StderrRing;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_secrets_are_struck_out() {
        let secrets = ["s3cret-key".to_owned(), "line-one\nline-two".to_owned(), "1".to_owned()];
        let ring = StderrRing::new(secrets.iter());
        let mut text: String = (0..50).map(|number| format!("line {number}\n")).collect();
        text.push_str("key=s3cret-key\nline-two\n");
        ring.fill(text.as_bytes()).await;
        let shown = ring.appendix();
        assert!(shown.contains("key=[redacted]\n[redacted]"), "{shown}");
        assert!(shown.contains("line 49") && !shown.contains("line 3\n"), "{shown}");
    }
}
