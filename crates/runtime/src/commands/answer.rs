//! Answer: says how a call ended of which the run does not know whether it took effect. It goes as a letter,
//! so that it is kept whatever happens to the node, and counts once.

use steadfast_store::{RunId, Sent};

use crate::error::RuntimeError;
use crate::event::Verdict;
use crate::folding::fold;
use crate::letters::{self, Word};
use crate::shared::Shared;

/// Says how a call ended.
#[derive(Clone, Debug)]
pub struct AnswerCall {
    /// The run.
    pub run: RunId,
    /// The call that is asked about, as in the model's answer.
    pub call_id: String,
    /// Whether it took effect.
    pub verdict: Verdict,
    /// What it gave, if that is known: the model is shown it.
    pub result: Option<String>,
    /// Who says so.
    pub by: String,
}

/// Answers a run's question; `false` if it had been answered before. Once it has returned, the answer is on
/// disk.
///
/// # Errors
/// [`RuntimeError::NotAsking`] if the run asks nobody, or about another call.
pub(crate) async fn answer(shared: &Shared, command: AnswerCall) -> Result<bool, RuntimeError> {
    let AnswerCall { run, call_id, verdict, result, by } = command;
    let folded = fold(shared.store.as_ref(), run).await?.run;
    let asked = folded.asked().zip(folded.question.as_ref());
    let Some((_, question)) = asked.filter(|(open, _)| open.call.id == call_id) else {
        let asked = asked.map(|(open, _)| open.call.id.clone());
        return Err(RuntimeError::NotAsking { run, call_id, asked, status: folded.status });
    };
    let id = format!("answer {} {call_id}", question.seq);
    let word = Word::Answer { call_id: call_id.clone(), verdict, result, by };
    match letters::send(shared, run, id, &word).await? {
        Sent::Kept => Ok(true),
        Sent::Known => Ok(false),
        Sent::Ended => {
            let status = super::status(shared, run).await?;
            Err(RuntimeError::NotAsking { run, call_id, asked: None, status })
        }
    }
}
