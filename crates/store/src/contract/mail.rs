//! Checks of [`Mailbox`](crate::Mailbox).
#![expect(missing_docs, reason = "the names of the checks are sentences")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Outcome, append, assert_refused, create, face, head, new_run};
use crate::{
    Append, Caps, Disposition, Fence, Letter, MAIL_BYTES_MAX, Mail, NodeId, RunId, Sent, Store,
    StoreError, Timestamp,
};

fn letter(to: RunId, id: &str) -> Mail {
    Mail { to, id: id.to_owned(), kind: "signal".to_owned(), body: Bytes::from_static(b"go") }
}

fn names(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.id.as_str()).collect()
}

async fn run(store: &dyn Store, disposition: Disposition) -> Result<RunId, StoreError> {
    let mut run = new_run();
    run.head.disposition = disposition;
    Ok(create(store, run).await?.id)
}

async fn held(store: &dyn Store) -> Result<RunId, StoreError> {
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(600)).await?;
    let id = run(store, Disposition::Ready).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    Ok(id)
}

pub async fn a_letter_is_kept_once_and_taken_once(store: Arc<dyn Store>) -> Outcome {
    let id = held(&*store).await?;
    assert_eq!(store.letters(id, 9).await?, []);
    assert_eq!(store.send(letter(id, "a")).await?, Sent::Kept);
    assert_eq!(store.send(letter(id, "b")).await?, Sent::Kept);
    assert_eq!(head(&*store, id).await?.disposition, Disposition::Held);
    assert_eq!(store.send(letter(id, "a")).await?, Sent::Known);
    let letters = store.letters(id, 9).await?;
    assert_eq!(names(&letters), ["a", "b"]);
    assert_eq!((letters[0].kind.as_str(), &letters[0].body[..]), ("signal", &b"go"[..]));
    assert!(letters[0].number < letters[1].number);
    assert_eq!(names(&store.letters(id, 1).await?), ["a"]);
    // A refused append takes nothing.
    let taken = vec![letters[0].number];
    let late = Append { taken: taken.clone(), ..append(id, 7, 1) };
    assert_refused!(store.append(late).await, StoreError::Fenced { .. });
    assert_eq!(names(&store.letters(id, 9).await?), ["a", "b"]);
    store.append(Append { taken, ..append(id, 1, 1) }).await?;
    assert_eq!(names(&store.letters(id, 9).await?), ["b"]);
    assert_eq!(store.send(letter(id, "a")).await?, Sent::Known);
    assert_eq!(names(&store.letters(id, 9).await?), ["b"]);
    Ok(())
}

pub async fn a_letter_wakes_a_parked_run_and_no_other(store: Arc<dyn Store>) -> Outcome {
    let far = Some(Timestamp(i64::MAX));
    for (before, after) in [
        (Disposition::Parked { wake_at: None }, Disposition::Ready),
        (Disposition::Parked { wake_at: far }, Disposition::Ready),
        (Disposition::Paused, Disposition::Paused),
        (Disposition::Ready, Disposition::Ready),
    ] {
        let id = run(&*store, before).await?;
        assert_eq!(store.send(letter(id, "a")).await?, Sent::Kept);
        assert_eq!(head(&*store, id).await?.disposition, after, "{before:?}");
        assert_eq!(store.letters(id, 9).await?.len(), 1);
    }
    Ok(())
}

pub async fn a_run_with_mail_is_not_parked(store: Arc<dyn Store>) -> Outcome {
    let id = held(&*store).await?;
    store.send(letter(id, "a")).await?;
    let parked = Some(face("waiting", Disposition::Parked { wake_at: None }));
    store.append(Append { head: parked.clone(), ..append(id, 1, 1) }).await?;
    let ready = head(&*store, id).await?;
    assert_eq!((ready.disposition, ready.owner), (Disposition::Ready, None));
    // One that takes its letters by the same append is parked.
    let node = NodeId::generate();
    store.renew(&node, Duration::from_secs(600)).await?;
    store.claim(&node, 1, &Caps::default()).await?;
    let taken = store.letters(id, 9).await?.iter().map(|letter| letter.number).collect();
    store.append(Append { head: parked, taken, ..append(id, 2, 2) }).await?;
    assert_eq!(head(&*store, id).await?.disposition, Disposition::Parked { wake_at: None });
    Ok(())
}

pub async fn an_append_sends_letters_with_its_events(store: Arc<dyn Store>) -> Outcome {
    let parent = run(&*store, Disposition::Parked { wake_at: None }).await?;
    let over = run(&*store, Disposition::Ended).await?;
    let child = held(&*store).await?;
    let mail = vec![
        letter(parent, "child"),
        letter(over, "child"),
        letter(RunId::generate(), "nobody"),
        letter(parent, "child"),
    ];
    let refused = Append { mail: mail.clone(), ..append(child, 9, 1) };
    assert_refused!(store.append(refused).await, StoreError::Fenced { .. });
    assert_eq!(store.letters(parent, 9).await?, []);
    let end = Some(face("done", Disposition::Ended));
    store.append(Append { mail, head: end, ..append(child, 1, 1) }).await?;
    assert_eq!(names(&store.letters(parent, 9).await?), ["child"]);
    assert_eq!(head(&*store, parent).await?.disposition, Disposition::Ready);
    assert_eq!(store.letters(over, 9).await?, []);
    Ok(())
}

pub async fn a_letter_that_cannot_be_kept_is_refused(store: Arc<dyn Store>) -> Outcome {
    let over = run(&*store, Disposition::Ended).await?;
    assert_eq!(store.send(letter(over, "a")).await?, Sent::Ended);
    let unknown = RunId::generate();
    assert_refused!(store.send(letter(unknown, "a")).await, StoreError::NotFound { run } if run == unknown);
    assert_refused!(store.letters(unknown, 1).await, StoreError::NotFound { .. });
    let id = run(&*store, Disposition::Ready).await?;
    let large = Mail { body: Bytes::from(vec![0; MAIL_BYTES_MAX + 1]), ..letter(id, "a") };
    assert_refused!(store.send(large.clone()).await, StoreError::TooLarge { .. });
    let append = Append { mail: vec![large], ..Append::new(id, Fence::Holding { epoch: 0 }, 1) };
    assert_refused!(store.append(append).await, StoreError::TooLarge { .. });
    Ok(())
}
