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
///
/// # Errors
/// No such run, it is over, it is an agent's and would never listen, or the name or the id is not
/// acceptable.
pub(crate) async fn signal(shared: &Shared, command: SignalRun) -> Result<bool, RuntimeError> {
    let SignalRun { run, name, payload, by, id } = command;
    check_name(&name).map_err(|problem| RuntimeError::InvalidInput { problem })?;
    let fits = |id: &String| (1..=ID_BYTES_MAX).contains(&id.len()) && !id.contains('\0');
    if !id.as_ref().is_none_or(fits) {
        let problem = format!("`id` must have 1 to {ID_BYTES_MAX} bytes, none of them zero");
        return Err(RuntimeError::InvalidInput { problem });
    }
    let head = shared.store.head(run).await?.ok_or(RuntimeError::UnknownRun { run })?;
    if shared.catalog.agent(&head.agent).is_some() {
        return Err(RuntimeError::NotListening { run, agent: head.agent });
    }
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

/// Longest name of a signal, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Longest id of a signal, in bytes.
const ID_BYTES_MAX: usize = 256;

/// What is wrong with the name of a signal.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let size = name.len();
    Err(format!("the name of a signal must have 1 to {NAME_BYTES_MAX} bytes, and this has {size}"))
}
