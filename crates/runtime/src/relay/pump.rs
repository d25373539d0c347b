//! The task of one relayed call: way after way until one answers, and the answer to whoever listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use steadfast_guard::{Attempt, CallContext, CallError, Effect, ErrorClass};
use steadfast_providers::http::MAX_ANSWER_BYTES;
use steadfast_providers::model::ModelAnswer;
use steadfast_providers::wire::translate::{self, Head, StreamTranslator};
use steadfast_providers::wire::{
    AnswerFacts, Failure, FailureKind, Upstream, Wire, WireFailure, WireProblem, answer_headers,
    failure_frames,
};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::answering::{AnswerFrames, Item, Items};
use super::failing::{Failed, may_be_billed, together};
use super::paid::Paid;
use super::request::{Ask, Way};
use super::{HangUp, Inner, Piece, WholeAnswer};
use crate::call::chain;

/// A caller that takes nothing for so long counts as gone: what it does not read must not be held for it for
/// ever, with its place at the provider.
const STUCK: Duration = Duration::from_secs(120);

/// Who listens, and whether anything has left yet.
struct Line {
    pieces: Sender<Piece>,
    sent: AtomicBool,
}

impl Line {
    /// Hands a piece on; whoever has gone misses nothing. `false` if it is not taken any more.
    async fn tell(&self, piece: Piece) -> bool {
        timeout(STUCK, self.pieces.send(piece)).await.is_ok()
    }

    fn has_gone(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Marks that an attempt leaves now. Nobody is asked once more for a caller that has gone.
    fn leave(&self, attempt: Attempt) -> Result<(), WireFailure> {
        if attempt.number > 1 && self.has_gone() {
            return Err(WireFailure::new(ErrorClass::Cancelled, "the caller has gone"));
        }
        self.sent.store(true, Ordering::Release);
        Ok(())
    }
}

/// Serves a call until it has been answered and charged, or its caller has gone and it is not to be read on.
pub(super) async fn pump(inner: Arc<Inner>, ask: Ask, pieces: Sender<Piece>) {
    let line = Line { pieces, sent: AtomicBool::new(false) };
    let hang_up = ask.hang_up;
    tokio::select! {
        biased;
        () = inner.halt.cancelled() => {}
        () = Box::pin(serve(&inner, &ask, &line)) => {}
        () = left(hang_up, &line) => debug!("a caller has gone before its answer was whole"),
    }
}

/// Waits until the caller has gone, and then for as long as its call is read on.
async fn left(hang_up: HangUp, line: &Line) {
    line.pieces.closed().await;
    if !line.sent.load(Ordering::Acquire) {
        return;
    }
    match hang_up {
        HangUp::Abort => {}
        HangUp::Drain(limit) => sleep(limit).await,
        HangUp::Finish => std::future::pending().await,
    }
}

async fn serve(inner: &Inner, ask: &Ask, line: &Line) {
    let mut failures = Vec::new();
    let mut unfit = None;
    for (place, way) in ask.ways.iter().enumerate() {
        let is_last = place + 1 == ask.ways.len();
        let _place = (place > 0).then(|| ask.ways[0].guard.fall_back());
        let tried = if ask.peek.stream {
            stream_way(inner, ask, way, line).await
        } else {
            match whole_way(inner, ask, way, line).await {
                Ok((answer, facts)) => match judge(ask, &facts) {
                    Err(problem) if !is_last => {
                        debug!(way = way.guard.name(), problem, "an answer does not count");
                        unfit = Some(answer);
                        continue;
                    }
                    _ => {
                        line.tell(Piece::Whole(answer)).await;
                        return;
                    }
                },
                Err(failed) => Err(failed),
            }
        };
        let Err(failed) = tried else { return };
        let ends = failed.ends || line.has_gone();
        failures.push((way.guard.name().to_owned(), failed));
        if ends {
            break;
        }
    }
    // It was paid for, and its reader can judge for himself.
    if let Some(answer) = unfit {
        line.tell(Piece::Whole(answer)).await;
        return;
    }
    line.tell(Piece::Refused(Box::new(together(failures, ask.repeated)))).await;
}

/// Whether an answer counts while other ways are left.
fn judge(ask: &Ask, facts: &AnswerFacts) -> Result<(), String> {
    let is_text = matches!(ask.wire, Wire::Chat | Wire::Responses | Wire::Messages);
    let Some(rule) = ask.rule.as_deref().filter(|_| is_text) else { return Ok(()) };
    rule.check.judge(&ModelAnswer {
        text: facts.text.clone(),
        tool_calls: facts.tool_calls.clone(),
        finish: facts.finish,
        usage: facts.usage,
        model: facts.model.clone(),
    })
}

/// What both forms of a call begin with.
async fn prepare(inner: &Inner, ask: &Ask, way: &Way) -> Result<(Paid, Upstream, Bytes), Failed> {
    let paid = Paid::reserve(inner, ask, way).await?;
    let body = ask.body_for(way, paid.cap)?;
    let upstream = way.upstream(ask.wire);
    let upstream = upstream.ok_or_else(|| WireProblem {
        field: String::new(),
        what: "nobody can be asked on this wire".to_owned(),
    })?;
    Ok((paid, upstream, body))
}

fn context(ask: &Ask, way: &Way) -> CallContext {
    let mut context = CallContext::new(Effect::Read).with_tenant(&ask.payer.tenant);
    if way.guard.policy().rate.tokens_per_minute.is_some() {
        context.tokens = ask.input_bound + ask.output_max().unwrap_or(0);
    }
    context.max_retries = ask.repeated.then_some(0);
    context
}

fn head(inner: &Inner, ask: &Ask) -> Head {
    Head { created_seconds: inner.store.now().0 / 1000, include_usage: ask.peek.include_usage }
}

/// Of an answer that was translated, the headers of the other wire mean nothing.
fn headers_for(ask: &Ask, way: &Way, headers: &HeaderMap, kind: &'static str) -> HeaderMap {
    if way.wire == ask.wire {
        return answer_headers(headers);
    }
    let mut own = HeaderMap::new();
    own.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    own
}

async fn whole_way(
    inner: &Inner,
    ask: &Ask,
    way: &Way,
    line: &Line,
) -> Result<(WholeAnswer, AnswerFacts), Failed> {
    let (paid, upstream, body) = prepare(inner, ask, way).await?;
    let mut context = context(ask, way);
    context.deadline = ask.within.map(|within| Instant::now() + within);
    let send = |attempt: Attempt| {
        let (upstream, body, paid) = (&upstream, body.clone(), &paid);
        async move {
            line.leave(attempt)?;
            paid.leaves();
            let answer = upstream.send(way.wire, &ask.headers, body).await?;
            if !answer.status.is_success() {
                return Err(answer.failure().await.0);
            }
            let headers = answer.headers;
            let body = answer.body.read_up_to(MAX_ANSWER_BYTES).await.map_err(|(why, _)| why)?;
            let facts = AnswerFacts::read(way.wire, &body).map_err(|why| upstream.redact(why))?;
            Ok((headers, body, facts))
        }
    };
    match way.guard.call_metered(context, send, |(_, _, facts)| facts.usage.total()).await {
        Ok(answer) => {
            let (headers, body, facts) = answer.value;
            let cost = paid.settle(&facts.model, facts.usage);
            let headers = headers_for(ask, way, &headers, "application/json");
            let body = if way.wire == ask.wire {
                body
            } else {
                translate::answer(way.wire, ask.wire, &body, &head(inner, ask))
                    .map_err(|why| Failed { failure: Failure::of_provider(&why), ends: false })?
            };
            Ok((WholeAnswer { headers, body, cost }, facts))
        }
        Err(error) => {
            give_up(paid, way, &error);
            Err(Failed::from(&error))
        }
    }
}

/// Charges what a call without an answer may have cost.
fn give_up(paid: Paid, way: &Way, error: &CallError<WireFailure>) {
    debug!(dependency = way.guard.name(), error = chain(error), "a relayed call has no answer");
    if !may_be_billed(error) {
        paid.release();
    }
}

/// Opens the stream of one attempt.
async fn open(
    inner: &Inner,
    ask: &Ask,
    way: &Way,
    (upstream, body): (&Upstream, Bytes),
    paid: &Paid,
) -> Result<Items, WireFailure> {
    let answer = upstream.send(way.wire, &ask.headers, body).await?;
    if !answer.status.is_success() || !answer.is_stream() {
        return Err(answer.failure().await.0);
    }
    let headers = headers_for(ask, way, &answer.headers, "text/event-stream");
    paid.tally.lock().headers = headers;
    let tally = Arc::clone(&paid.tally);
    let mut frames = AnswerFrames::new(way.wire, answer.body, upstream.clone(), tally);
    frames.shows_usage = ask.peek.include_usage;
    if way.wire != ask.wire {
        let translator = StreamTranslator::new(way.wire, ask.wire, head(inner, ask));
        let translator =
            translator.map_err(|why| WireFailure::new(ErrorClass::Internal, why.to_string()))?;
        frames.translator = Some(translator);
    }
    Ok(frames.items())
}

async fn stream_way(inner: &Inner, ask: &Ask, way: &Way, line: &Line) -> Result<(), Failed> {
    let (paid, upstream, body) = prepare(inner, ask, way).await?;
    let attempt = |attempt: Attempt| {
        let (upstream, body, paid) = (&upstream, body.clone(), &paid);
        async move {
            line.leave(attempt)?;
            paid.leaves();
            open(inner, ask, way, (upstream, body), paid).await
        }
    };
    let opening = way.guard.stream(context(ask, way), attempt, |item: &Item| item.last);
    let opened = match ask.within {
        None => opening.await,
        Some(within) => match timeout_at(Instant::now() + within, opening).await {
            Ok(opened) => opened,
            // What it has cost, if anything, nobody will tell.
            Err(_) => {
                let message = "the answer did not begin within the time that the caller gives it";
                let mut failure = Failure::new(FailureKind::UpstreamTimeout, message);
                failure.tried = true;
                return Err(Failed { failure, ends: true });
            }
        },
    };
    let mut items = match opened {
        Ok(items) => items,
        Err(error) => {
            give_up(paid, way, &error);
            return Err(Failed::from(&error));
        }
    };
    let headers = std::mem::take(&mut paid.tally.lock().headers);
    line.tell(Piece::Open(headers)).await;
    while let Some(item) = items.next().await {
        match item {
            Ok(Item { bytes, last: false }) => {
                if !line.tell(Piece::Data(bytes)).await {
                    debug!(dependency = way.guard.name(), "a caller does not read its stream");
                    return Ok(());
                }
            }
            Ok(Item { bytes, last: true }) => {
                drop(paid);
                line.tell(Piece::Data(bytes)).await;
                line.tell(Piece::End).await;
                return Ok(());
            }
            Err(error) => {
                debug!(dependency = way.guard.name(), error = chain(&error), "a stream broke off");
                let sequence = paid.tally.lock().next_sequence;
                drop(paid);
                let mut failure = Failed::from(&error).failure;
                failure.request_id = Some(ask.request_id.clone());
                let frames = failure_frames(ask.wire, &failure, sequence);
                line.tell(Piece::Broken(frames)).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_for_long_is_told_nothing_more_and_who_has_gone_costs_no_time() {
        let (pieces, reader) = mpsc::channel(1);
        let line = Line { pieces, sent: AtomicBool::new(false) };
        let began = Instant::now();
        assert!(line.tell(Piece::Data(Bytes::new())).await);
        assert!(!line.tell(Piece::Data(Bytes::new())).await, "nobody has taken the first");
        assert_eq!(began.elapsed(), STUCK);
        assert!(!line.has_gone());
        drop(reader);
        assert!(line.tell(Piece::End).await && line.has_gone());
        assert_eq!(began.elapsed(), STUCK);
    }
}
