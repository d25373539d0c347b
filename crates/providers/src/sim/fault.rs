//! Faults on demand: which request, and what goes wrong with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One rule that makes requests fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "FaultTable", into = "FaultTable")]
pub struct Fault {
    /// Which requests.
    pub selector: FaultSelector,
    /// How often at most; `None` is always.
    pub times: Option<u32>,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// Which requests a fault meets. Requests are counted from when the list was put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultSelector {
    /// The nth request, from 1, and as many of the following as `times` says.
    Request(u64),
    /// Every nth request; without `times`, for ever.
    Every(u64),
    /// Requests that this step answers.
    Step(String),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// The answer comes later.
    Latency(Duration),
    /// An error answer.
    Status {
        /// The HTTP status, 400 to 599.
        code: u16,
        /// `retry-after`, in seconds.
        retry_after: Option<f64>,
    },
    /// Nothing comes, not even a status, until the client leaves.
    StallBeforeFirstByte,
    /// The answer begins, and nothing more comes until the client leaves.
    StallMidStream {
        /// How many chunks come first. A plain answer has two, and the last never comes.
        after_chunks: usize,
    },
    /// The connection breaks within the answer.
    CutStream {
        /// How many chunks come first. A plain answer has two, and the last never comes.
        after_chunks: usize,
    },
    /// The connection breaks within the answer, at this byte of its body.
    CutBytes {
        /// How many bytes come first. The last never comes.
        after_bytes: usize,
    },
    /// The provider reports an error within the answer and ends the stream; a plain answer is the error,
    /// with the status of a good one.
    ErrorInStream {
        /// How many chunks come first.
        after_chunks: usize,
    },
    /// The head and the first chunk come at once, the others later.
    SlowFirstToken(Duration),
    /// A chunk, or the plain answer, is not JSON.
    MalformedJson,
}

impl FaultKind {
    const fn name(&self) -> KindName {
        match self {
            Self::Latency(_) => KindName::Latency,
            Self::Status { .. } => KindName::Status,
            Self::StallBeforeFirstByte => KindName::StallBeforeFirstByte,
            Self::StallMidStream { .. } => KindName::StallMidStream,
            Self::CutStream { .. } => KindName::CutStream,
            Self::CutBytes { .. } => KindName::CutBytes,
            Self::ErrorInStream { .. } => KindName::ErrorInStream,
            Self::SlowFirstToken(_) => KindName::SlowFirstToken,
            Self::MalformedJson => KindName::MalformedJson,
        }
    }

    /// As it stands in a script.
    pub(super) const fn label(&self) -> &'static str {
        self.name().label()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindName {
    Latency,
    Status,
    StallBeforeFirstByte,
    StallMidStream,
    CutStream,
    CutBytes,
    ErrorInStream,
    SlowFirstToken,
    MalformedJson,
}

impl KindName {
    const fn label(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Status => "status",
            Self::StallBeforeFirstByte => "stall_before_first_byte",
            Self::StallMidStream => "stall_mid_stream",
            Self::CutStream => "cut_stream",
            Self::CutBytes => "cut_bytes",
            Self::ErrorInStream => "error_in_stream",
            Self::SlowFirstToken => "slow_first_token",
            Self::MalformedJson => "malformed_json",
        }
    }
}

/// A fault as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    kind: KindName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_chunks: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_bytes: Option<usize>,
}

impl FaultTable {
    fn kind(&self) -> Result<FaultKind, String> {
        let label = self.kind.label();
        let misplaced = |key: &str| Err(format!("`{key}` does not belong to kind `{label}`"));
        let waits = matches!(self.kind, KindName::Latency | KindName::SlowFirstToken);
        let answers = matches!(self.kind, KindName::Status);
        let begins = matches!(
            self.kind,
            KindName::StallMidStream | KindName::CutStream | KindName::ErrorInStream
        );
        if self.ms.is_some() && !waits {
            return misplaced("ms");
        }
        if self.code.is_some() && !answers {
            return misplaced("code");
        }
        if self.retry_after.is_some() && !answers {
            return misplaced("retry_after");
        }
        if self.after_chunks.is_some() && !begins {
            return misplaced("after_chunks");
        }
        if self.after_bytes.is_some() && !matches!(self.kind, KindName::CutBytes) {
            return misplaced("after_bytes");
        }
        let needs = |key: &str| format!("kind `{label}` needs `{key}`");
        let after_chunks = || self.after_chunks.ok_or_else(|| needs("after_chunks"));
        let wait = || self.ms.map(Duration::from_millis).ok_or_else(|| needs("ms"));
        Ok(match self.kind {
            KindName::Latency => FaultKind::Latency(wait()?),
            KindName::SlowFirstToken => FaultKind::SlowFirstToken(wait()?),
            KindName::Status => {
                let code = self.code.ok_or_else(|| needs("code"))?;
                if !(400..600).contains(&code) {
                    return Err(format!("`code` must be from 400 to 599, not {code}"));
                }
                let retry_after = self.retry_after;
                if retry_after.is_some_and(|seconds| !seconds.is_finite() || seconds < 0.0) {
                    return Err("`retry_after` must be a number of seconds, 0 or more".to_owned());
                }
                FaultKind::Status { code, retry_after }
            }
            KindName::StallBeforeFirstByte => FaultKind::StallBeforeFirstByte,
            KindName::StallMidStream => FaultKind::StallMidStream { after_chunks: after_chunks()? },
            KindName::CutStream => FaultKind::CutStream { after_chunks: after_chunks()? },
            KindName::ErrorInStream => FaultKind::ErrorInStream { after_chunks: after_chunks()? },
            KindName::CutBytes => FaultKind::CutBytes {
                after_bytes: self.after_bytes.ok_or_else(|| needs("after_bytes"))?,
            },
            KindName::MalformedJson => FaultKind::MalformedJson,
        })
    }
}

impl TryFrom<FaultTable> for Fault {
    type Error = String;

    fn try_from(table: FaultTable) -> Result<Self, String> {
        let kind = table.kind()?;
        let selector = match (table.request, table.every, table.step) {
            (Some(0), None, None) => return Err("`request` counts from 1".to_owned()),
            (None, Some(0), None) => return Err("`every` must be 1 or more".to_owned()),
            (Some(number), None, None) => FaultSelector::Request(number),
            (None, Some(number), None) => FaultSelector::Every(number),
            (None, None, Some(step)) => FaultSelector::Step(step),
            _ => return Err("a fault has one of `request`, `every` and `step`".to_owned()),
        };
        let times = match (&selector, table.times) {
            (_, Some(0)) => return Err("`times` must be 1 or more".to_owned()),
            (FaultSelector::Every(_), None) => None,
            (_, times) => Some(times.unwrap_or(1)),
        };
        Ok(Self { selector, times, kind })
    }
}

impl From<Fault> for FaultTable {
    fn from(fault: Fault) -> Self {
        let mut table = Self {
            request: None,
            every: None,
            step: None,
            times: fault.times,
            kind: fault.kind.name(),
            ms: None,
            code: None,
            retry_after: None,
            after_chunks: None,
            after_bytes: None,
        };
        match fault.selector {
            FaultSelector::Request(number) => table.request = Some(number),
            FaultSelector::Every(number) => table.every = Some(number),
            FaultSelector::Step(step) => table.step = Some(step),
        }
        match fault.kind {
            FaultKind::Latency(wait) | FaultKind::SlowFirstToken(wait) => {
                table.ms = u64::try_from(wait.as_millis()).ok();
            }
            FaultKind::Status { code, retry_after } => {
                table.code = Some(code);
                table.retry_after = retry_after;
            }
            FaultKind::StallMidStream { after_chunks }
            | FaultKind::CutStream { after_chunks }
            | FaultKind::ErrorInStream { after_chunks } => {
                table.after_chunks = Some(after_chunks);
            }
            FaultKind::CutBytes { after_bytes } => table.after_bytes = Some(after_bytes),
            FaultKind::StallBeforeFirstByte | FaultKind::MalformedJson => {}
        }
        table
    }
}

/// The faults in place, and how often each has struck.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    requests: u64,
}

/// A fault and how often it struck, for people.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rule {
    #[serde(flatten)]
    fault: Fault,
    struck: u32,
}

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        let rules = faults.into_iter().map(|fault| Rule { fault, struck: 0 }).collect();
        Self { rules, requests: 0 }
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Counts a request, and says what goes wrong with it. The first rule that fits strikes.
    pub(super) fn next(&mut self, step: Option<&str>) -> Option<FaultKind> {
        self.requests += 1;
        let number = self.requests;
        let rule = self.rules.iter_mut().find(|rule| {
            rule.fault.times.is_none_or(|times| rule.struck < times)
                && match &rule.fault.selector {
                    FaultSelector::Request(first) => number >= *first,
                    FaultSelector::Every(nth) => number.is_multiple_of(*nth),
                    FaultSelector::Step(name) => step == Some(name),
                }
        })?;
        rule.struck = rule.struck.saturating_add(1);
        Some(rule.fault.kind.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Fault, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn struck(text: &str, steps: &[&str]) -> Vec<bool> {
        let mut faults = Faults::new(vec![read(text).unwrap()]);
        steps.iter().map(|step| faults.next(Some(step)).is_some()).collect()
    }

    #[test]
    fn selectors_strike_where_they_say() {
        let steps = ["a", "b", "a", "b", "a"];
        let check = |selector: &str, expected: [bool; 5]| {
            let text = format!(r#"{{{selector}, "kind": "malformed_json"}}"#);
            assert_eq!(struck(&text, &steps), expected, "{selector}");
        };
        let (y, n) = (true, false);
        check(r#""request": 2"#, [n, y, n, n, n]);
        check(r#""request": 2, "times": 2"#, [n, y, y, n, n]);
        check(r#""every": 2"#, [n, y, n, y, n]);
        check(r#""every": 2, "times": 1"#, [n, y, n, n, n]);
        check(r#""step": "a""#, [y, n, n, n, n]);
        check(r#""step": "b", "times": 9"#, [n, y, n, y, n]);
    }

    #[test]
    fn a_wrong_fault_is_refused_by_the_name_of_its_key() {
        for (text, says) in [
            (r#"{"kind": "status", "code": 500}"#, "`request`"),
            (r#"{"request": 1, "every": 2, "kind": "malformed_json"}"#, "`every`"),
            (r#"{"request": 0, "kind": "malformed_json"}"#, "`request`"),
            (r#"{"every": 0, "kind": "malformed_json"}"#, "`every`"),
            (r#"{"request": 1, "kind": "status"}"#, "`code`"),
            (r#"{"request": 1, "kind": "status", "code": 200}"#, "`code`"),
            (r#"{"request": 1, "kind": "latency", "code": 500, "ms": 1}"#, "`code`"),
            (r#"{"request": 1, "kind": "cut_stream"}"#, "`after_chunks`"),
            (r#"{"request": 1, "kind": "cut_bytes", "after_chunks": 1}"#, "`after_chunks`"),
            (r#"{"request": 1, "kind": "cut_bytes"}"#, "`after_bytes`"),
            (r#"{"request": 1, "kind": "slow_first_token"}"#, "`ms`"),
            (r#"{"request": 1, "kind": "error_in_stream", "after_bytes": 1}"#, "`after_bytes`"),
            (
                r#"{"request": 1, "kind": "status", "code": 500, "retry_after": -1}"#,
                "`retry_after`",
            ),
            (r#"{"request": 1, "times": 0, "kind": "malformed_json"}"#, "`times`"),
            (r#"{"request": 1, "kind": "malformed_json", "more": 1}"#, "`more`"),
            (r#"{"request": 1, "kind": "boom"}"#, "`boom`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_fault_is_shown_as_it_is_written() {
        let text = r#"{"step":"a","times":2,"kind":"status","code":429,"retry_after":1.5}"#;
        assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
    }
}
