//! What a write must fulfil, as pure checks: every backend applies the same ones, inside the
//! transaction that writes.

use bytes::Bytes;

use crate::{
    Append, Blob, BlobHash, Disposition, FACT_BYTES_MAX, FactWrite, Fence, HeadUpdate, KeyClaim,
    KeyEnd, KeySettlement, KeyStanding, MAIL_BYTES_MAX, MAIL_WAITING_MAX, Mail, NewEvent, NewRun,
    NodeId, RunId, Sent, StoreError, Timestamp, VALUE_BYTES_MAX,
};

/// The part of an index card that decides whether an append is admitted.
pub(crate) struct Standing {
    pub(crate) epoch: u64,
    pub(crate) head_seq: u64,
    pub(crate) held: bool,
    pub(crate) ended: bool,
}

/// What of a new run can be refused without looking at the store.
pub(crate) fn check_new_run(run: &NewRun) -> Result<(), StoreError> {
    if run.head.disposition == Disposition::Held {
        return Err(misuse("a new run has no owner: only a claim makes a run held"));
    }
    check_sizes(run.id, &run.events, &run.blobs, None, Some(&run.head))
}

/// What of an append can be refused without looking at the store.
pub(crate) fn check_append(append: &Append) -> Result<(), StoreError> {
    if append.events.is_empty()
        && append.blobs.is_empty()
        && append.checkpoint.is_none()
        && append.head.is_none()
        && append.keys.is_empty()
        && append.mail.is_empty()
        && append.taken.is_empty()
        && append.facts.is_empty()
    {
        return Err(misuse("an append must write something"));
    }
    if append.fence == Fence::Seize {
        match &append.head {
            None => return Err(misuse("an append that seizes a run must update its head")),
            Some(head) if head.disposition == Disposition::Held => {
                return Err(misuse("an append that seizes a run must not leave it held"));
            }
            Some(_) => {}
        }
    }
    append.keys.iter().try_for_each(check_settlement)?;
    append.mail.iter().try_for_each(check_mail)?;
    check_facts(&append.facts)?;
    check_sizes(
        append.run,
        &append.events,
        &append.blobs,
        append.checkpoint.as_ref().map(Bytes::len),
        append.head.as_ref(),
    )
}

/// What of a settlement can be refused without looking at the store.
pub(crate) fn check_settlement(settlement: &KeySettlement) -> Result<(), StoreError> {
    match &settlement.end {
        KeyEnd::Recorded { answer, .. } if answer.len() > VALUE_BYTES_MAX => {
            Err(misuse("the answer of a key is larger than the store keeps"))
        }
        KeyEnd::Recorded { .. } | KeyEnd::Released => Ok(()),
    }
}

/// What of a letter can be refused without looking at the store.
pub(crate) fn check_mail(mail: &Mail) -> Result<(), StoreError> {
    let (size_bytes, limit_bytes) = (mail.body.len(), MAIL_BYTES_MAX);
    if size_bytes > limit_bytes {
        return Err(StoreError::TooLarge { run: mail.to, what: "letter", size_bytes, limit_bytes });
    }
    Ok(())
}

/// What of facts can be refused without looking at the store.
pub(crate) fn check_facts(facts: &[FactWrite]) -> Result<(), StoreError> {
    let large = |fact: &FactWrite| fact.value.as_ref().is_some_and(|v| v.len() > FACT_BYTES_MAX);
    if facts.iter().any(large) {
        return Err(misuse("the value of a fact is larger than the store keeps (256 KiB)"));
    }
    Ok(())
}

/// How a letter meets the run it is for.
pub(crate) fn admit_mail(
    is_over: bool,
    is_known: bool,
    waiting: usize,
) -> Result<Sent, StoreError> {
    match (is_over, is_known) {
        (_, true) => Ok(Sent::Known),
        (true, false) => Ok(Sent::Ended),
        (false, false) if waiting >= MAIL_WAITING_MAX => {
            Err(misuse("10 000 letters wait for this run already: it does not read them"))
        }
        (false, false) => Ok(Sent::Kept),
    }
}

/// What a run's disposition becomes: one that has mail is not put aside.
pub(crate) fn disposition(wanted: Disposition, has_mail: bool) -> Disposition {
    match wanted {
        Disposition::Parked { .. } if has_mail => Disposition::Ready,
        wanted => wanted,
    }
}

/// A key as it is stored.
#[derive(Clone)]
pub(crate) struct StoredKey {
    pub(crate) digest: BlobHash,
    pub(crate) owner: String,
    pub(crate) node: NodeId,
    pub(crate) since: Timestamp,
    pub(crate) settled: Option<SettledKey>,
}

#[derive(Clone)]
pub(crate) struct SettledKey {
    pub(crate) answer: Bytes,
    pub(crate) at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// How a claim meets what is stored; [`KeyStanding::Claimed`] means that the claim is to be written.
pub(crate) fn claim_key(
    claim: &KeyClaim,
    stored: Option<StoredKey>,
    now: Timestamp,
    alive: impl FnOnce(&NodeId) -> bool,
) -> KeyStanding {
    let Some(stored) = stored else { return KeyStanding::Claimed };
    let expired = stored.settled.as_ref().is_some_and(|settled| settled.expires_at <= now);
    match stored {
        _ if expired => KeyStanding::Claimed,
        StoredKey { digest, since, .. } if digest != claim.digest => {
            KeyStanding::Conflict { since }
        }
        StoredKey { settled: Some(SettledKey { answer, at, .. }), .. } => {
            KeyStanding::Settled { answer, at }
        }
        StoredKey { owner, .. } if owner == claim.owner || claim.seize.as_ref() == Some(&owner) => {
            KeyStanding::Claimed
        }
        StoredKey { owner, since, node, .. } => {
            KeyStanding::InFlight { owner, since, alive: alive(&node) }
        }
    }
}

/// Whether an append may be written to a run that stands like this; the epoch after it.
pub(crate) fn admit(append: &Append, run: &Standing) -> Result<u64, StoreError> {
    let epoch = match append.fence {
        Fence::Holding { epoch } if epoch != run.epoch => {
            let (held, current) = (epoch, run.epoch);
            // Said here: whoever asked may have let go of the run meanwhile and hear no answer.
            tracing::info!(run = %append.run, held, current, "an append was refused: the run has changed hands");
            return Err(StoreError::Fenced { run: append.run, held, current });
        }
        Fence::Holding { .. } if run.ended => {
            return Err(misuse("the run has ended: only an append that seizes it may follow"));
        }
        // Epoch 0 is nobody's: whoever made the run may add to it until it is claimed.
        Fence::Holding { epoch } if epoch > 0 && !run.held => {
            return Err(StoreError::Fenced { run: append.run, held: epoch, current: epoch });
        }
        Fence::Holding { epoch } => epoch,
        Fence::Seize => run.epoch + 1,
    };
    if append.expected_seq != run.head_seq {
        let (expected, actual) = (append.expected_seq, run.head_seq);
        return Err(StoreError::Conflict { run: append.run, expected, actual });
    }
    let becomes_held = matches!(&append.head, Some(head) if head.disposition == Disposition::Held);
    if becomes_held && !run.held {
        return Err(misuse("only a claim makes a run held"));
    }
    Ok(epoch)
}

fn check_sizes(
    run: RunId,
    events: &[NewEvent],
    blobs: &[Blob],
    checkpoint: Option<usize>,
    head: Option<&HeadUpdate>,
) -> Result<(), StoreError> {
    let sizes = events
        .iter()
        .map(|event| ("event body", event.body.len()))
        .chain(blobs.iter().map(|blob| ("blob", blob.bytes.len())))
        .chain(checkpoint.map(|size| ("checkpoint", size)))
        .chain(head.map(|head| ("summary", head.summary.len())));
    for (what, size_bytes) in sizes {
        if size_bytes > VALUE_BYTES_MAX {
            let limit_bytes = VALUE_BYTES_MAX;
            return Err(StoreError::TooLarge { run, what, size_bytes, limit_bytes });
        }
    }
    // A blob under a foreign hash would answer `Corrupt` to everybody who has the right bytes.
    if blobs.iter().any(|blob| BlobHash::of(&blob.bytes) != blob.hash) {
        return Err(misuse("a blob's hash is not the hash of its bytes"));
    }
    Ok(())
}

pub(crate) const fn misuse(problem: &'static str) -> StoreError {
    StoreError::Misuse { problem }
}
