//! `kill -9` of the real program, hundreds of times, while a world that outlives it counts (SCOPE C4, C10,
//! C11, R11). A test binary of its own: it starts and kills processes as fast as it can, and should not run
//! beside what is measured against deadlines in `tests/it`. It needs no luck and no quiet machine: levels are
//! polled, and what has not come about by the last kill is killed at until it has.
//!
//! The moments are drawn from a seed, which a failing test prints; `STEADFAST_KILL_SEED` sets it.
//! `STEADFAST_KILLS` sets how often a node is killed.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "these tests start and kill real programs, and end where something is not as said"
)]

mod cluster;
mod life;
mod load;
mod node;
mod oracle;
mod place;
#[path = "../../../store/tests/it/postgres_server.rs"]
mod postgres_server;
mod record;
mod tools;
mod wire;
mod world;

use std::time::Duration;

use steadfast_runtime::RunEvent;

use crate::cluster::Cluster;
use crate::life::{Moment, Toll, live};
use crate::oracle::Evidence;
use crate::place::Place;
use crate::postgres_server::{Server, shared};
use crate::world::{World, count, endings, happened};

/// Kills of one test; there are two for each store, and together they make 200.
const KILLS: u64 = 100;

/// Kills right after an event of each kind, in one test.
const KILLS_A_KIND: usize = 3;

/// Nodes that are stopped past their lease, in one test, before they are killed.
const WAKINGS: usize = 4;

/// Events that only runs of code have, and this program has no code to run: that is what a program that embeds
/// the runtime brings. Such a process is ended at every write of these in `crates/runtime/tests/it`, by
/// `boundaries.rs`, `sagas.rs`, `saga_rollback.rs`, `children.rs` and `signals.rs`.
const OF_CODE: [(&str, &str); 8] = [
    ("step_started", "an agent's run has calls in place of steps"),
    ("step_finished", "the same"),
    ("signalled", "an agent never listens: a signal to its run is refused"),
    ("heard", "the same"),
    ("child_ended", "an agent starts no runs"),
    ("steps_unmet", "an agent has no code that could change"),
    ("cancelling", "an agent's run is cancelled at once"),
    ("undone", "what an agent's run undoes are calls"),
];

/// The kinds that have not been killed at often enough.
fn owed(toll: &Toll) -> Vec<&'static str> {
    let is_of_code = |kind| OF_CODE.iter().any(|(of_code, _)| *of_code == kind);
    let kinds = RunEvent::KINDS.into_iter().filter(|kind| !is_of_code(*kind));
    kinds.filter(|kind| toll.at_event.get(kind).is_none_or(|n| *n < KILLS_A_KIND)).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Whether everything has been killed at that a test is about.
fn is_enough(toll: &Toll, world: &World) -> bool {
    let is_repeated = world.tools.executions().iter().any(|execution| execution.repeated);
    owed(toll).is_empty() && toll.woken > 0 && toll.in_executions > 0 && is_repeated
}

/// Draws the next moment: what is still owed to some kind of event, or at random; at start-up in rows.
fn draw(dice: &mut fastrand::Rng, toll: &Toll, is_late: bool, row: &mut u32) -> Moment {
    let start_ms = u64::try_from(toll.start_takes.as_millis()).unwrap_or(50).max(20);
    if *row > 0 {
        *row -= 1;
        return Moment::AfterStart(Duration::from_millis(dice.u64(2..start_ms * 3 / 2)));
    }
    if dice.u32(0..5) == 0 {
        *row = dice.u32(1..=3);
    }
    let must_wake = is_late && toll.woken == 0;
    if must_wake || toll.woken < WAKINGS && dice.u32(0..10) == 0 {
        return Moment::Woken(place::LEASE + Duration::from_millis(dice.u64(1..500)));
    }
    let is_left_to_chance = dice.u32(0..4) == 0;
    match dice.choice(owed(toll)).filter(|_| !is_left_to_chance) {
        Some(kind) => Moment::Event(kind, Duration::from_micros(dice.u64(0..4_000))),
        None => Moment::Serving(Duration::from_millis(dice.u64(0..500))),
    }
}

/// Makes that which is waited for come about, as far as that is not for the node to do.
fn prepare(world: &World, moment: Moment) -> Moment {
    match moment {
        // Runs that have a checkpoint and are not over are left by a kill in their middle.
        Moment::Event("checkpoint_passed_over", _) if world.spoil() == 0 => {
            Moment::Serving(Duration::from_millis(300))
        }
        moment => moment,
    }
}

/// Kills nodes until there have been enough kills, lets everything come to rest, and judges.
fn kill_and_judge(place: Place, salt: u64) {
    let seed = number("STEADFAST_KILL_SEED").unwrap_or_else(|| fastrand::u64(..)) ^ salt;
    eprintln!("STEADFAST_KILL_SEED={}", seed ^ salt);
    let kills = number("STEADFAST_KILLS").unwrap_or(KILLS);
    let mut dice = fastrand::Rng::with_seed(seed);
    let world = World::new(place, seed);
    let mut toll = Toll::default();
    let mut row = 0;
    // What has not come about by then is waited for: more kills, and not luck.
    while toll.kills < kills || (!is_enough(&toll, &world) && toll.kills < 2 * kills) {
        let moment = draw(&mut dice, &toll, toll.kills > kills / 2, &mut row);
        live(&world, prepare(&world, moment), &mut toll);
    }
    world.configure(false);
    let evidence = world.judge(world.node(), 0);
    let (unknown, repeated) = tell(&evidence, &toll);
    // Otherwise it shows nothing.
    assert!(owed(&toll).is_empty(), "not every kind of event was killed at: {toll:?}");
    assert!(toll.at_start > 0 && toll.woken > 0 && toll.in_executions > 0, "{toll:?}");
    assert!(unknown > 0, "no kill left the outcome of a call unknown");
    assert!(repeated > 0, "no kill fell into an idempotent call");
}

/// Says what there was; how many outcomes were unknown, and how many calls were repeated with their key.
fn tell(evidence: &Evidence, toll: &dyn std::fmt::Debug) -> (usize, usize) {
    let unknown = count(evidence, "outcome", "outcome_unknown");
    let repeated = evidence.executions.iter().filter(|execution| execution.repeated).count();
    eprintln!(
        "{toll:?}\nruns {:?}, events {} {:?}, shown {}, executions {}, repeated with their key {repeated}, \
         outcomes unknown {unknown}, model calls {}",
        endings(evidence),
        evidence.logs.values().map(Vec::len).sum::<usize>(),
        happened(evidence),
        evidence.acknowledged.shown.values().map(|log| log.len()).sum::<usize>(),
        evidence.executions.len(),
        evidence.asks.len(),
    );
    (unknown, repeated)
}

#[test]
fn c10_nothing_acknowledged_is_lost_and_nothing_done_twice_on_sqlite() {
    kill_and_judge(Place::Sqlite, 0);
}

#[test]
fn c10_nothing_acknowledged_is_lost_and_nothing_done_twice_on_sqlite_again() {
    kill_and_judge(Place::Sqlite, 0x9e37_79b9_7f4a_7c15);
}

#[test]
fn c10_nothing_acknowledged_is_lost_and_nothing_done_twice_on_postgres() {
    let Some(server) = shared() else { return };
    kill_and_judge(Place::on(server), 1);
}

#[test]
fn c10_nothing_acknowledged_is_lost_and_nothing_done_twice_on_postgres_again() {
    let Some(server) = shared() else { return };
    kill_and_judge(Place::on(server), 2);
}

/// Troubles of three nodes in one test.
const TROUBLES: u64 = 30;

#[test]
fn c11_three_nodes_lose_nothing_and_do_nothing_twice_whatever_happens_to_them() {
    // A server of its own: it is restarted.
    let Some(server) = Server::start() else { return };
    let seed = number("STEADFAST_KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("STEADFAST_KILL_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let world = World::new(Place::on(&server), seed);
    let mut cluster = Cluster::start(&world);
    let troubles = number("STEADFAST_KILLS").unwrap_or(TROUBLES);
    let mut nth = 0;
    while nth < troubles || (!cluster.has_seen_all() && nth < 3 * troubles) {
        cluster.trouble(nth, &mut dice, &server);
        nth += 1;
    }
    cluster.end();
    world.configure(false);
    let evidence = world.judge(world.node(), cluster.troubles.stops);
    let troubles = &cluster.troubles;
    let (unknown, repeated) = tell(&evidence, troubles);
    assert!(troubles.stops > 0 && troubles.restarts > 0 && troubles.lost > 0, "{troubles:?}");
    assert!(troubles.in_executions > 0 && unknown > 0 && repeated > 0, "{troubles:?}");
    assert!(troubles.refused > 0, "no node that woke was refused: {troubles:?}");
    // Whatever the nodes' clocks say: what is written carries the database's time.
    assert!(troubles.hours_off > 0, "{troubles:?}");
    let until = jiff::Timestamp::now().as_millisecond() + 60_000;
    for event in evidence.logs.values().flatten() {
        let at = event["at"].as_i64().expect("a time");
        assert!((until - 1_200_000..until).contains(&at), "{event}");
    }
}
