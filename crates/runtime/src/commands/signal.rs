//! Signal: says something to a run that is not over. It is kept until the run listens.

use serde_json::Value;
use steadfast_store::{RunId, Sent};

use crate::error::RuntimeError;
use crate::letters::{self, Word};
use crate::shared::Shared;

/// Says something to a run.
#[derive(Clone, Debug)]
pub struct SignalRun {
    /// The run.
    pub run: RunId,
    /// What it is called; the run waits for it by this name.
    pub name: String,
    /// What is said.
    pub payload: Value,
    /// Who says it.
    pub by: String,
    /// Said again with the same id, it is not said twice. Default: a new one each time.
    pub id: Option<String>,
}

/// Says something to a run; `false` if it was said before with this id. Once it has returned, it is on
/// disk.
pub(crate) async fn signal(shared: &Shared, command: SignalRun) -> Result<bool, RuntimeError> {
    let SignalRun { run, name, payload, by, id } = command;
    let id = id.unwrap_or_else(|| RunId::generate().to_string());
    let word = Word::Signal { name, payload, by };
    match letters::send(shared, run, format!("signal {id}"), &word).await? {
        Sent::Kept => Ok(true),
        Sent::Known => Ok(false),
        Sent::Ended => {
            let status = super::status(shared, run).await?;
            Err(RuntimeError::WrongState { run, command: "signal", status })
        }
    }
}
