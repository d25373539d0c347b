//! The problems of runs: each a word, what it means, and what to do. In full: `docs/problems.md`.

use std::fmt;

/// What is wrong with a run, while it goes on or after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    /// Nothing has happened for longer than the limit of its step.
    Stuck,
    /// It is queued although places are free.
    Unclaimed,
    /// Its wake-up time has passed, and it still waits.
    Overdue,
    /// Its agent is not configured here.
    UnknownAgent,
    /// Its calls and their results come again and again.
    Repeating,
    /// It has taken far more tokens than runs of its agent do.
    Costly,
    /// It has succeeded although something that it asked for failed or is not certain.
    Partial,
}

impl Problem {
    /// All problems, the most urgent first.
    pub const ALL: [Self; 7] = [
        Self::Stuck,
        Self::Unclaimed,
        Self::Overdue,
        Self::UnknownAgent,
        Self::Repeating,
        Self::Costly,
        Self::Partial,
    ];

    /// The problem as one stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Unclaimed => "unclaimed",
            Self::Overdue => "overdue",
            Self::UnknownAgent => "unknown_agent",
            Self::Repeating => "repeating",
            Self::Costly => "costly",
            Self::Partial => "partial",
        }
    }

    /// The problem of that name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|problem| problem.as_str() == word)
    }

    /// What it means, in one sentence.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Stuck => "Nothing has happened for longer than the limit of its step.",
            Self::Unclaimed => "It is queued although places are free.",
            Self::Overdue => "Its wake-up time has passed, and it still waits.",
            Self::UnknownAgent => "Its agent is not configured on this node.",
            Self::Repeating => "The same calls with the same results come again and again.",
            Self::Costly => "It has taken far more tokens than runs of its agent do.",
            Self::Partial => {
                "It has succeeded although something that it asked for failed or is not certain."
            }
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Stuck => {
                "Look at its last step; cancel it, or start its node again: the run goes on there."
            }
            Self::Unclaimed => "Look whether its nodes log that they cannot claim runs.",
            Self::Overdue => "Look whether its nodes log that they cannot claim runs; resume it.",
            Self::UnknownAgent => "Configure the agent again, or cancel the run.",
            Self::Repeating => "Read what the tool answers; cancel it, or mend the instructions.",
            Self::Costly => {
                "Read what it does; cancel it, or say what is to be expected: `tokens_expected`."
            }
            Self::Partial => "Read the steps that failed before relying on the answer.",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_the_page_explains_every_problem_and_no_other() {
        let page = include_str!("../../../../docs/problems.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let known: Vec<_> = Problem::ALL.map(Problem::as_str).to_vec();
        assert_eq!(rows.take(known.len()).collect::<Vec<_>>(), known);
        for problem in Problem::ALL {
            assert_eq!(Problem::parse(problem.as_str()), Some(problem));
            assert!(page.contains(problem.meaning().trim_end_matches('.')), "{problem}");
        }
        assert_eq!(Problem::parse("bored"), None);
    }
}
