//! Other ways to an answer, in order: a primary model, a backup, rules, a person (SCOPE R13). Each answer is
//! checked before it counts, and the one that counts says which way it came and why not an earlier one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::time::{Instant, timeout_at};

use crate::{Classify, ErrorClass};

type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, (ErrorClass, String)>> + Send + 'a>>;
type Check<'a, T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync + 'a>;

/// Ways to an answer, tried in the order in which they were added.
///
/// Each way that calls a dependency has a guard of its own; retries are that guard's business. A way is
/// left for the next one when it fails or when its answer does not pass a check. Dropping the future drops
/// the way that is being tried.
///
/// ```
/// use std::time::Duration;
/// use steadfast_guard::{CallContext, CallError, Classify, Effect, ErrorClass, Fallback, Guard, Policy, checks};
/// use tokio::time::Instant;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("down")]
/// struct Down;
/// impl Classify for Down {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::Unavailable
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let primary = Guard::new("primary", Policy::default())?;
/// let answer = Fallback::new()
///     .check(checks::not_blank)
///     .way("primary", async {
///         let call = |_| async { Err::<String, _>(Down) };
///         Ok::<_, CallError<Down>>(primary.call(CallContext::new(Effect::Read), call).await?.value)
///     })
///     .way("rules", async { Ok::<_, CallError<Down>>("Please try again later.".to_owned()) })
///     .answer(Instant::now() + Duration::from_secs(60))
///     .await
///     .map_err(|error| error.to_string())?;
/// assert_eq!((answer.value.as_str(), answer.way), ("Please try again later.", "rules"));
/// assert!(answer.skipped[0].reason.contains("down"));
/// # Ok(())
/// # }
/// ```
pub struct Fallback<'a, T> {
    ways: Vec<(&'a str, Answering<'a, T>)>,
    checks: Vec<Check<'a, T>>,
}

/// An answer, and the way it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackAnswer<'a, T> {
    /// The answer.
    pub value: T,
    /// The way it came.
    pub way: &'a str,
    /// The ways before it, each with why it gave no answer that counts.
    pub skipped: Vec<Skipped<'a>>,
}

impl<T> FallbackAnswer<'_, T> {
    /// Whether it came another way than the first: whoever is shown it should be told.
    #[must_use]
    pub const fn is_degraded(&self) -> bool {
        !self.skipped.is_empty()
    }
}

/// A way that gave no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped<'a> {
    /// The way.
    pub way: &'a str,
    /// What kind of error; `None` if its answer did not pass a check.
    pub class: Option<ErrorClass>,
    /// What happened.
    pub reason: String,
}

/// No way gave an answer that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer<'a> {
    /// The ways that were tried, each with why.
    pub skipped: Vec<Skipped<'a>>,
    /// Ways were left, and trying them could not help or could do harm, or time was up.
    pub stopped: bool,
}

impl fmt::Display for NoAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.stopped {
            "stopped without an answer"
        } else {
            "no way gave an answer"
        })?;
        for Skipped { way, reason, .. } in &self.skipped {
            write!(f, "; {way}: {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoAnswer<'_> {}

impl<T> fmt::Debug for Fallback<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ways.iter().map(|(way, _)| way)).finish()
    }
}

impl<T> Default for Fallback<'_, T> {
    fn default() -> Self {
        Self { ways: Vec::new(), checks: Vec::new() }
    }
}

impl<'a, T> Fallback<'a, T> {
    /// No ways and no checks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a way, behind those added before. Nothing of it happens before they have failed.
    #[must_use]
    pub fn way<E>(
        mut self,
        name: &'a str,
        way: impl Future<Output = Result<T, E>> + Send + 'a,
    ) -> Self
    where
        E: Classify + std::error::Error,
    {
        let way = async { way.await.map_err(|error| (error.class(), chain(&error))) };
        self.ways.push((name, Box::pin(way)));
        self
    }

    /// Adds a check that every answer must pass; its error says what is wrong. See [`checks`].
    #[must_use]
    pub fn check(mut self, check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'a) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Tries one way after the other.
    ///
    /// A write whose outcome is unknown ends it: another way could do the thing twice. So do a request
    /// that is wrong, a cancellation, and the deadline.
    ///
    /// # Errors
    /// No way gave an answer that passes the checks.
    pub async fn answer(self, deadline: Instant) -> Result<FallbackAnswer<'a, T>, NoAnswer<'a>> {
        let mut skipped = Vec::new();
        let mut left = self.ways.len();
        for (way, answering) in self.ways {
            left -= 1;
            let ended = timeout_at(deadline, answering).await;
            let ended = ended
                .unwrap_or_else(|_| Err((ErrorClass::Timeout, "the deadline passed".to_owned())));
            let (class, reason) = match ended {
                Ok(value) => match self.checks.iter().find_map(|check| check(&value).err()) {
                    None => return Ok(FallbackAnswer { value, way, skipped }),
                    Some(problem) => (None, problem),
                },
                Err((class, reason)) => (Some(class), reason),
            };
            skipped.push(Skipped { way, class, reason });
            if left > 0 && (class.is_some_and(ends_it) || Instant::now() >= deadline) {
                return Err(NoAnswer { skipped, stopped: true });
            }
        }
        Err(NoAnswer { skipped, stopped: false })
    }
}

/// Whether no other way may be tried after an error of this class.
const fn ends_it(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::OutcomeUnknown | ErrorClass::InvalidRequest | ErrorClass::Cancelled)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Checks of answers that are text.
pub mod checks {
    /// The answer is not blank.
    ///
    /// # Errors
    /// It is.
    pub fn not_blank(answer: &String) -> Result<(), String> {
        at_least(1)(answer)
    }

    /// The answer has at least so many characters, white space around it aside.
    pub fn at_least(chars: usize) -> impl Fn(&String) -> Result<(), String> + Send + Sync {
        move |answer| {
            let found = answer.trim().chars().count();
            if found >= chars {
                return Ok(());
            }
            Err(format!("the answer has {found} characters, and {chars} are the least"))
        }
    }

    /// The answer does not begin with one of these phrases, whatever their case: how refusals begin.
    pub fn not_beginning_with(
        phrases: &'static [&'static str],
    ) -> impl Fn(&String) -> Result<(), String> + Send + Sync {
        move |answer| {
            let begins = answer.trim_start().to_lowercase();
            match phrases.iter().find(|phrase| begins.starts_with(&phrase.to_lowercase())) {
                None => Ok(()),
                Some(phrase) => Err(format!("the answer begins like a refusal: `{phrase}`")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it is {0:?}")]
    struct Broken(ErrorClass);

    impl Classify for Broken {
        fn class(&self) -> ErrorClass {
            self.0
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn says(text: &str) -> impl Future<Output = Result<String, Broken>> + Send + use<> {
        ready(Ok(text.to_owned()))
    }

    fn fails(class: ErrorClass) -> impl Future<Output = Result<String, Broken>> + Send {
        ready(Err(Broken(class)))
    }

    fn never() -> impl Future<Output = Result<String, Broken>> + Send {
        std::future::poll_fn(|_| panic!("this way must not be tried"))
    }

    #[tokio::test(start_paused = true)]
    async fn r13_the_first_answer_that_passes_the_checks_counts_and_says_what_came_before() {
        let answer = Fallback::new()
            .check(checks::at_least(5))
            .check(checks::not_beginning_with(&["I cannot", "As an AI"]))
            .way("primary", fails(ErrorClass::Unavailable))
            .way("empty", says("  "))
            .way("refusing", says(" i CANNOT help"))
            .way("backup", says("the answer"))
            .way("person", never())
            .answer(far())
            .await
            .unwrap();
        assert_eq!((answer.value.as_str(), answer.way), ("the answer", "backup"));
        assert!(answer.is_degraded());
        let why: Vec<_> = answer.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
        assert_eq!(answer.skipped[0].class, Some(ErrorClass::Unavailable));
        assert!(why[0].contains("Unavailable") && why[1].contains("0 characters"), "{why:?}");
        assert!(why[2].contains("`I cannot`"), "{why:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn r13_a_first_answer_is_not_degraded_and_no_way_at_all_is_no_answer() {
        let answer = Fallback::new().way("primary", says("yes")).answer(far()).await.unwrap();
        assert!(!answer.is_degraded());
        let none = Fallback::<String>::new().answer(far()).await.unwrap_err();
        assert_eq!(none, NoAnswer { skipped: vec![], stopped: false });
    }

    #[tokio::test(start_paused = true)]
    async fn r13_nothing_is_tried_after_a_write_of_unknown_outcome_or_a_wrong_request() {
        for class in [ErrorClass::OutcomeUnknown, ErrorClass::InvalidRequest, ErrorClass::Cancelled]
        {
            let ways = Fallback::new().way("primary", fails(class)).way("backup", never());
            let error = ways.answer(far()).await.unwrap_err();
            assert!(error.stopped && error.skipped.len() == 1, "{error}");
        }
        for class in [ErrorClass::ContextTooLong, ErrorClass::Refused, ErrorClass::Authentication] {
            let ways = Fallback::new().way("primary", fails(class)).way("backup", says("yes"));
            assert_eq!(ways.answer(far()).await.unwrap().way, "backup", "{class:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r13_the_deadline_ends_the_way_that_is_tried_and_all_others() {
        let start = Instant::now();
        let stuck = pending::<Result<String, Broken>>();
        let ways = Fallback::new().way("stuck", stuck).way("backup", never());
        let error = ways.answer(far()).await.unwrap_err();
        assert!(error.stopped && error.to_string().contains("deadline"), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(60));
    }
}
