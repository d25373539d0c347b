//! Submit: a new run, accepted once it is on disk.

use steadfast_store::{Created, Disposition, HeadUpdate, NewRun, RunHead, Store};

use crate::error::RuntimeError;
use crate::event::RunEvent;
use crate::journal::{first_summary, unwritable};
use crate::shared::Shared;
use crate::state::Status;
use crate::stored;
use crate::view::RunView;

/// Longest input, in bytes (8 MiB); larger things belong into a file or a store that a tool reads.
pub const INPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest tenant, session or idempotency key, in bytes.
const LABEL_BYTES_MAX: usize = 256;

/// Most tags of a run.
const TAGS_MAX: usize = 64;

/// Longest tag, in bytes.
const TAG_BYTES_MAX: usize = 128;

/// Asks for a new run.
#[derive(Clone, Debug)]
pub struct SubmitRun {
    /// The agent that is to do it.
    pub agent: String,
    /// What it is to do.
    pub input: String,
    /// Whose run it is. Default `default`.
    pub tenant: String,
    /// Higher goes first. 0 is normal.
    pub priority: i32,
    /// Submitting again with the same key gives the same run, for as long as the store keeps it.
    pub key: Option<String>,
    /// The conversation or the like that it belongs to.
    pub session: Option<String>,
    /// Words that people find it by; their order does not count.
    pub tags: Vec<String>,
}

impl SubmitRun {
    /// A run of an agent for the default tenant.
    #[must_use]
    pub fn new(agent: impl Into<String>, input: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            input: input.into(),
            tenant: "default".to_owned(),
            priority: 0,
            key: None,
            session: None,
            tags: Vec::new(),
        }
    }

    /// Whether sizes and labels are acceptable; whether the agent exists is for the runtime to say.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidInput`] says which is not, and what is allowed.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let invalid = |problem: String| Err(RuntimeError::InvalidInput { problem });
        let size = self.input.len();
        if size > INPUT_BYTES_MAX {
            return invalid(format!(
                "the input is {size} bytes, and the limit is {INPUT_BYTES_MAX}: put it into a file \
                 that a tool reads"
            ));
        }
        for (what, label) in [
            ("tenant", Some(&self.tenant)),
            ("key", self.key.as_ref()),
            ("session", self.session.as_ref()),
        ] {
            check_label(what, label)?;
        }
        if self.tags.len() > TAGS_MAX {
            let count = self.tags.len();
            return invalid(format!("there are {count} tags, and the limit is {TAGS_MAX}"));
        }
        let fits = |tag: &&String| {
            (1..=TAG_BYTES_MAX).contains(&tag.len()) && !tag.contains(char::is_control)
        };
        match self.tags.iter().find(|tag| !fits(tag)) {
            Some(tag) => invalid(format!(
                "a tag must have 1 to {TAG_BYTES_MAX} bytes, and no line breaks or other control \
                 characters; `{}` has not",
                tag.escape_debug()
            )),
            None => Ok(()),
        }
    }
}

/// A label that is neither empty nor too long and can be kept by every store, or none.
pub(super) fn check_label(what: &str, label: Option<&String>) -> Result<(), RuntimeError> {
    let fits =
        |label: &String| (1..=LABEL_BYTES_MAX).contains(&label.len()) && !label.contains('\0');
    if !label.is_none_or(fits) {
        let problem = format!("`{what}` must have 1 to {LABEL_BYTES_MAX} bytes, none of them zero");
        return Err(RuntimeError::InvalidInput { problem });
    }
    Ok(())
}

/// What submitting did.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The run.
    pub run: RunView,
    /// Whether it is new; otherwise the key had been used before.
    pub new: bool,
}

/// Accepts a run. Once it has returned, the run is on disk and will be executed, whatever happens to
/// this process.
pub(crate) async fn submit(shared: &Shared, command: SubmitRun) -> Result<Submitted, RuntimeError> {
    let catalog = &shared.catalog;
    if !catalog.executes(&command.agent) {
        let (name, known) = (command.agent, catalog.agent_names());
        return Err(RuntimeError::UnknownAgent { name, known });
    }
    command.check()?;
    let SubmitRun { agent, input, tenant, priority, key, session, mut tags } = command;
    tags.sort_unstable();
    tags.dedup();
    let event = RunEvent::Submitted { agent, input, call: None, parent: None, session, tags };
    let labels = Labels { tenant, priority, key };
    let (head, new) = create(shared.store.as_ref(), event, labels).await?;
    if new {
        shared.announce(head.id, head.head_seq);
    }
    Ok(Submitted { run: RunView::from_head(&head), new })
}

/// Whose run it is, how urgent, and under which key it is submitted.
pub(crate) struct Labels {
    pub(crate) tenant: String,
    pub(crate) priority: i32,
    pub(crate) key: Option<String>,
}

/// Puts a new run on disk, or finds the one that was submitted with the same key; `true` if it is new.
pub(crate) async fn create(
    store: &dyn Store,
    event: RunEvent,
    labels: Labels,
) -> Result<(RunHead, bool), RuntimeError> {
    let RunEvent::Submitted { agent, input, parent, session, tags, .. } = &event else {
        let problem = format!("a run begins with `submitted`, not with `{}`", event.kind());
        return Err(RuntimeError::InvalidInput { problem });
    };
    let (summary, agent, parent) = (first_summary(input)?, agent.clone(), *parent);
    let Labels { tenant, priority, key } = labels;
    let (packed, blobs) = stored::pack_event(&event).map_err(unwritable)?;
    let head = HeadUpdate {
        state: Status::Queued.as_str().to_owned(),
        disposition: Disposition::Ready,
        problem: None,
        summary,
    };
    let (text, session, tags) = (searched(input), session.clone(), tags.clone());
    let new = NewRun::new(tenant, agent, vec![packed], head);
    let new = NewRun { priority, key, session, parent, text, tags, blobs, ..new };
    match store.create(new).await? {
        Created::New(head) => Ok((head, true)),
        Created::Existing(head) => {
            check_same(store, &head, &event).await?;
            Ok((head, false))
        }
    }
}

/// The text that a run is found by: not every store keeps zero bytes in one.
pub(super) fn searched(input: &str) -> String {
    input.replace('\0', " ")
}

/// What differs between two submissions, by the names of the API.
fn differences(known: &RunEvent, submission: &RunEvent) -> Vec<&'static str> {
    use RunEvent::Submitted;
    let (
        Submitted { agent, input, call, parent, session, tags },
        Submitted {
            agent: other_agent,
            input: other_input,
            call: other_call,
            parent: other_parent,
            session: other_session,
            tags: other_tags,
        },
    ) = (known, submission)
    else {
        return Vec::new();
    };
    let differs = [
        ("agent", agent != other_agent),
        ("input", input != other_input),
        ("call", call != other_call),
        ("parent", parent != other_parent),
        ("session", session != other_session),
        ("tags", tags != other_tags),
    ];
    differs.into_iter().filter(|field| field.1).map(|field| field.0).collect()
}

/// A key stands for one submission: the same key with anything else is a mistake of the caller's.
async fn check_same(
    store: &dyn Store,
    head: &RunHead,
    submission: &RunEvent,
) -> Result<(), RuntimeError> {
    let run = head.id;
    let events = store.read(run, 0, 1).await?;
    let first = events.first().ok_or(RuntimeError::UnknownRun { run })?;
    let known = stored::unpack_event(store, first).await?;
    if known == *submission {
        return Ok(());
    }
    Err(RuntimeError::KeyConflict { run, differs: differences(&known, submission) })
}
