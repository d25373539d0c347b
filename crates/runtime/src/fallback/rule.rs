//! The rules as they are written.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_guard::Effect;
use steadfast_providers::model::{FinishReason, ModelAnswer};

/// What is tried, in this order, when a model or a tool gives no answer that counts.
///
/// A refusal by the guard (open breaker, full queue, cooldown) is no answer, too. Nothing is tried after a
/// request that is wrong, nor after a change whose outcome is unknown: another way could make it twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FallbackRule {
    /// Models only: a conversation that is too long for the model is shortened and asked again, once.
    pub compact: bool,
    /// Other models (of a model) or tools (of a tool, with the same arguments), each behind its own guard.
    /// A tool's substitute may do no more outside than the tool: a read stands in for a change, and not
    /// the other way round.
    pub to: Vec<String>,
    /// Models only: what an answer must pass to count.
    pub check: AnswerChecks,
    /// Tools that only read: the last good result for the same arguments and tenant, if it is no older.
    /// Kept in memory, up to 8 MiB a tool.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub cached: Option<Duration>,
    /// Answers that stand ready; the first that fits the question is given.
    pub prepared: Vec<PreparedAnswer>,
    /// Tools that change something: the call is queued as a run of its own, which tries for so long, and the
    /// model is told that it is not done yet. Never if it may have taken effect already.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
    /// With `queue`: a tool that is told how it ended, as `{ "message": "..." }`: made, failed or given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
}

/// What a model's answer must pass to count. An answer that calls tools passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerChecks {
    /// Characters that the text must have at least, white space around it aside. Default 1: not blank.
    pub min_chars: usize,
    /// How refusals begin, whatever their case. Default: none; what the provider itself marks as refused
    /// never counts.
    pub refusals: Vec<String>,
}

/// An answer that stands ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreparedAnswer {
    /// It fits a question that has one of these words or phrases, whatever their case; without any, it
    /// fits every question.
    #[serde(default)]
    pub words: Vec<String>,
    /// The answer.
    pub answer: String,
}

impl Default for AnswerChecks {
    fn default() -> Self {
        Self { min_chars: 1, refusals: Vec::new() }
    }
}

impl AnswerChecks {
    /// Whether an answer counts; the error says why not.
    pub(crate) fn judge(&self, answer: &ModelAnswer) -> Result<(), String> {
        if answer.finish == FinishReason::Refused {
            return Err("the provider marks the answer as refused".to_owned());
        }
        if !answer.tool_calls.is_empty() {
            return Ok(());
        }
        let text = answer.text.trim();
        let found = text.chars().count();
        if found < self.min_chars {
            let least = self.min_chars;
            return Err(format!("the answer has {found} characters, and {least} are the least"));
        }
        let text = text.to_lowercase();
        let refusal = self.refusals.iter().find(|begin| text.starts_with(&begin.to_lowercase()));
        match refusal {
            None => Ok(()),
            Some(begin) => Err(format!("the answer begins like a refusal: `{begin}`")),
        }
    }
}

impl FallbackRule {
    /// The prepared answer for a question.
    pub(crate) fn prepared_for(&self, question: &str) -> Option<&str> {
        let question = question.to_lowercase();
        let fits = |prepared: &&PreparedAnswer| {
            let mut words = prepared.words.iter();
            prepared.words.is_empty() || words.any(|word| question.contains(&word.to_lowercase()))
        };
        self.prepared.iter().find(fits).map(|prepared| prepared.answer.as_str())
    }

    /// What is wrong with the rule as a model's: the key and the problem.
    pub(crate) fn check_for_model(
        &self,
        name: &str,
        models: &[&str],
    ) -> Result<(), (&'static str, String)> {
        self.check_names("model", name, models)?;
        if self.cached.is_some() {
            return Err(("cached", "models' answers are not kept; this is for tools".to_owned()));
        }
        if self.queue.is_some() || self.notify.is_some() {
            return Err(("queue", "only a tool's call can be made later".to_owned()));
        }
        if self.check.refusals.iter().any(|begin| begin.trim().is_empty()) {
            return Err(("check.refusals", "one is blank, and every answer begins so".to_owned()));
        }
        let nothing = self.to.is_empty() && self.prepared.is_empty() && !self.compact;
        if nothing && self.check == AnswerChecks::default() {
            return Err((
                "to",
                "the rule says nothing: set `to`, `prepared` or `compact`".to_owned(),
            ));
        }
        self.check_prepared()
    }

    /// What is wrong with the rule as a tool's: the key and the problem. `tools` are all there are, each
    /// with what it does outside.
    pub(crate) fn check_for_tool(
        &self,
        name: &str,
        tools: &[(&str, Effect)],
    ) -> Result<(), (&'static str, String)> {
        let names: Vec<&str> = tools.iter().map(|(name, _)| *name).collect();
        self.check_names("tool", name, &names)?;
        if self.compact || self.check != AnswerChecks::default() {
            let key = if self.compact { "compact" } else { "check" };
            return Err((key, "this is for models".to_owned()));
        }
        let effect_of = |wanted: &str| tools.iter().find(|(name, _)| *name == wanted);
        let Some(&(_, effect)) = effect_of(name) else { return Ok(()) };
        for substitute in &self.to {
            if effect_of(substitute).is_some_and(|(_, other)| weight(*other) > weight(effect)) {
                let problem = format!(
                    "`{substitute}` does more outside than `{name}`; a substitute may do as much or less"
                );
                return Err(("to", problem));
            }
        }
        if self.cached.is_some() && effect != Effect::Read {
            return Err((
                "cached",
                "the tool changes something; only a read's result is kept".to_owned(),
            ));
        }
        if self.cached.is_some_and(|age| age.is_zero()) {
            return Err(("cached", "it is 0: nothing would ever be young enough".to_owned()));
        }
        if self.queue.is_some() && effect == Effect::Read {
            return Err((
                "queue",
                "the tool only reads, and nobody would see the result".to_owned(),
            ));
        }
        if self.queue.is_some_and(|time| time.is_zero() || time > LONGEST_QUEUE) {
            let problem = "set it above 0 and to 365 days or less; the call is tried for so long";
            return Err(("queue", problem.to_owned()));
        }
        if self.queue.is_some() && !self.prepared.is_empty() {
            let problem =
                "the call would never be queued: an answer stands ready; remove one of both";
            return Err(("prepared", problem.to_owned()));
        }
        if let Some(notify) = &self.notify {
            if self.queue.is_none() {
                return Err((
                    "notify",
                    "without `queue` there is nothing to tell; set both".to_owned(),
                ));
            }
            if effect_of(notify).is_none() {
                let known = names.join(", ");
                return Err(("notify", format!("there is no tool `{notify}`; there are: {known}")));
            }
        }
        let nothing = self.to.is_empty() && self.prepared.is_empty();
        if nothing && self.cached.is_none() && self.queue.is_none() {
            let problem = "the rule says nothing: set `to`, `cached`, `prepared` or `queue`";
            return Err(("to", problem.to_owned()));
        }
        self.check_prepared()
    }

    fn check_names(
        &self,
        kind: &str,
        name: &str,
        known: &[&str],
    ) -> Result<(), (&'static str, String)> {
        for (place, other) in self.to.iter().enumerate() {
            if !known.contains(&other.as_str()) {
                let known = known.join(", ");
                return Err(("to", format!("there is no {kind} `{other}`; there are: {known}")));
            }
            if other == name || self.to[..place].contains(other) {
                return Err(("to", format!("`{other}` is tried already; name each {kind} once")));
            }
        }
        Ok(())
    }

    fn check_prepared(&self) -> Result<(), (&'static str, String)> {
        let Some((last, others)) = self.prepared.split_last() else { return Ok(()) };
        if self.prepared.iter().any(|prepared| prepared.answer.trim().is_empty()) {
            return Err(("prepared", "an answer is blank".to_owned()));
        }
        if others.iter().any(|prepared| prepared.words.is_empty()) {
            let problem = "an answer without `words` fits every question, so those behind it are never \
                           given: put it last";
            return Err(("prepared", problem.to_owned()));
        }
        if last
            .words
            .iter()
            .chain(others.iter().flat_map(|p| &p.words))
            .any(|w| w.trim().is_empty())
        {
            return Err(("prepared", "a word is blank, and would fit every question".to_owned()));
        }
        Ok(())
    }
}

/// Nobody waits longer for a call: a year is a slip of the unit.
const LONGEST_QUEUE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How much an operation does outside.
const fn weight(effect: Effect) -> u8 {
    match effect {
        Effect::Read => 0,
        Effect::Idempotent => 1,
        Effect::Once => 2,
    }
}

#[cfg(test)]
mod tests {
    use steadfast_providers::model::{ToolCall, Usage};

    use super::*;

    fn answer(text: &str) -> ModelAnswer {
        ModelAnswer {
            text: text.to_owned(),
            tool_calls: Vec::new(),
            finish: FinishReason::Stop,
            usage: Usage::default(),
            model: "m".to_owned(),
        }
    }

    #[test]
    fn r13_blank_short_and_refusing_answers_do_not_count() {
        let checks = AnswerChecks { min_chars: 5, refusals: vec!["I cannot".to_owned()] };
        assert_eq!(checks.judge(&answer("long enough")), Ok(()));
        assert!(checks.judge(&answer("  four ")).unwrap_err().contains("4 characters"));
        assert!(checks.judge(&answer("\ni CANNOT help")).unwrap_err().contains("refusal"));
        let refused = ModelAnswer { finish: FinishReason::Refused, ..answer("long enough") };
        assert!(checks.judge(&refused).unwrap_err().contains("refused"));
        let call = ToolCall { id: "1".into(), name: "t".into(), arguments: "{}".into() };
        let calling = ModelAnswer { tool_calls: vec![call], ..answer("") };
        assert_eq!(checks.judge(&calling), Ok(()));
        assert!(AnswerChecks::default().judge(&answer(" \n")).is_err());
    }

    fn prepared(words: &[&str], answer: &str) -> PreparedAnswer {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        PreparedAnswer { words, answer: answer.to_owned() }
    }

    #[test]
    fn r14_the_first_prepared_answer_whose_words_the_question_has_is_given() {
        let answers = vec![prepared(&["refund", "money back"], "30 days"), prepared(&[], "later")];
        let rule = FallbackRule { prepared: answers, ..FallbackRule::default() };
        assert_eq!(rule.prepared_for("Can I get my MONEY BACK?"), Some("30 days"));
        assert_eq!(rule.prepared_for("Hello"), Some("later"));
        assert_eq!(FallbackRule::default().prepared_for("Hello"), None);
    }

    #[test]
    fn r14_rules_that_cannot_do_what_they_say_are_refused_with_the_key() {
        let models = ["main", "backup"];
        let tools = [("look", Effect::Read), ("pay", Effect::Once), ("set", Effect::Idempotent)];
        let to = |name: &str| vec![name.to_owned()];
        let base = FallbackRule::default();
        let minute = Some(Duration::from_secs(60));
        let model = |rule: FallbackRule| rule.check_for_model("main", &models).unwrap_err().0;
        assert_eq!(model(FallbackRule { to: to("other"), ..base.clone() }), "to");
        assert_eq!(model(FallbackRule { to: to("main"), ..base.clone() }), "to");
        assert_eq!(model(FallbackRule { cached: minute, ..base.clone() }), "cached");
        assert_eq!(model(FallbackRule { queue: minute, ..base.clone() }), "queue");
        assert_eq!(model(base.clone()), "to");
        let blank = vec![prepared(&[], " ")];
        assert_eq!(model(FallbackRule { prepared: blank, ..base.clone() }), "prepared");
        let blank = AnswerChecks { refusals: vec![" ".to_owned()], ..AnswerChecks::default() };
        assert_eq!(model(FallbackRule { check: blank, ..base.clone() }), "check.refusals");
        let hidden = vec![prepared(&[], "all"), prepared(&["refund"], "never given")];
        assert_eq!(model(FallbackRule { prepared: hidden, ..base.clone() }), "prepared");
        let tool = |name: &str, rule: FallbackRule| rule.check_for_tool(name, &tools).err();
        let key = |name: &str, rule: FallbackRule| tool(name, rule).map(|(key, _)| key);
        assert_eq!(key("look", FallbackRule { to: to("pay"), ..base.clone() }), Some("to"));
        assert_eq!(key("set", FallbackRule { to: to("pay"), ..base.clone() }), Some("to"));
        assert_eq!(key("pay", FallbackRule { to: to("look"), ..base.clone() }), None);
        assert_eq!(key("pay", FallbackRule { cached: minute, ..base.clone() }), Some("cached"));
        assert_eq!(key("look", FallbackRule { queue: minute, ..base.clone() }), Some("queue"));
        assert_eq!(key("look", FallbackRule { compact: true, ..base.clone() }), Some("compact"));
        let zero = Some(Duration::ZERO);
        assert_eq!(key("pay", FallbackRule { queue: zero, ..base.clone() }), Some("queue"));
        let century = Some(Duration::from_secs(100 * 366 * 86_400));
        assert_eq!(key("pay", FallbackRule { queue: century, ..base.clone() }), Some("queue"));
        assert_eq!(key("look", FallbackRule { cached: zero, ..base.clone() }), Some("cached"));
        let told = |queue, notify: &str| FallbackRule {
            queue,
            notify: Some(notify.to_owned()),
            ..base.clone()
        };
        assert_eq!(key("pay", told(None, "look")), Some("notify"));
        assert_eq!(key("pay", told(minute, "nobody")), Some("notify"));
        assert_eq!(key("pay", told(minute, "look")), None);
        let both = FallbackRule { queue: minute, prepared: vec![prepared(&[], "ok")], ..base };
        assert_eq!(key("pay", both), Some("prepared"));
    }
}
