//! Calls are paid for: reserved before they leave, charged when they have ended, whoever drops them (SCOPE
//! G9, P7, P10).

use std::sync::Arc;
use std::time::Duration;

use steadfast_providers::model::Usage;
use steadfast_runtime::ledger::{
    BudgetRule, Cashier, Charge, NotReserved, Payer, Purchase, Scope, Terms, Window,
};
use steadfast_runtime::prices::Certainty;
use steadfast_runtime::{AgentSpec, Catalog, RetryRun, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{EntryFilter, EntryKind, Ledger as _, MemoryStore, Store};

use crate::world::{Says, ScriptedModel};

fn budget(scope: Scope, window: Window, tokens: u64) -> BudgetRule {
    let soft = vec![50];
    let name = "*".to_owned();
    let tokens = Some(tokens);
    let (tenant, usd, operations) = (None, None, Vec::new());
    BudgetRule { scope, name, tenant, window, tokens, usd, soft, operations }
}

fn terms(budgets: Vec<BudgetRule>) -> Terms {
    Terms { budgets, ..Terms::built_in().expect("the table is whole") }
}

fn payer() -> Payer {
    let session = Some("s".to_owned());
    Payer { tenant: "acme".to_owned(), session, ..Payer::default() }
}

fn purchase(payer: &Payer, input_tokens: u64, output_max: Option<u64>) -> Purchase<'_> {
    Purchase {
        payer,
        provider: "openai",
        model: "gpt-6.1-sol",
        input_tokens,
        output_max,
        long_cache: false,
        audio: false,
        service: None,
        simulated: false,
        within: Duration::from_secs(120),
    }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_uncached: Some(input), output: Some(output), ..Usage::default() }
}

async fn used(cashier: &Cashier) -> (u64, u64) {
    let standing = cashier.standing(&payer()).await.expect("the store is there");
    (standing[0].balance.spent.tokens, standing[0].balance.held.tokens)
}

fn cashier(store: &Arc<MemoryStore>, budgets: Vec<BudgetRule>) -> Cashier {
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    Cashier::start(store, terms(budgets))
}

#[tokio::test(start_paused = true)]
async fn g9_a_call_is_charged_as_far_as_it_went() {
    let store = Arc::new(MemoryStore::new());
    let desk = cashier(&store, vec![budget(Scope::Tenant, Window::Day, 1_000)]);
    let payer = payer();
    let ask = || purchase(&payer, 100, Some(200));
    // Not sent: nothing.
    drop(desk.reserve(ask()).await.expect("there is room"));
    // Surely not made: nothing.
    let mut released = desk.reserve(ask()).await.expect("there is room");
    released.sent();
    released.release();
    let mut unseen = desk.reserve(ask()).await.expect("there is room");
    unseen.sent();
    let mut seen = desk.reserve(ask()).await.expect("there is room");
    seen.sent();
    seen.seen(usage(100, 20));
    let whole = desk.reserve(ask()).await.expect("there is room");
    // Three reservations of 300 are open.
    let refused = desk.reserve(ask()).await.err().expect("there is no room");
    let NotReserved::OverBudget(over) = &refused else { panic!("{refused}") };
    assert_eq!((over.limit, over.spent, over.reserved, over.needed), (1_000, 0, 900, 300));
    assert!(over.resets_at.is_some_and(|at| at > store.now().0));
    // 100 x 2 USD and 50 x 10 USD a million.
    let charged = whole.settle("gpt-6.1-sol", usage(100, 50), false);
    assert_eq!(charged.cost.nano(), 700_000);
    drop((unseen, seen));
    desk.close().await;
    assert_eq!(used(&desk).await, (300 + 120 + 150, 0));
    let entries = store.entries(EntryFilter::default()).await.expect("the store is there");
    let charges = entries.iter().map(|entry| {
        assert_eq!((entry.kind, entry.subject.as_deref()), (EntryKind::Settled, Some("session:s")));
        let charge: Charge = serde_json::from_slice(&entry.body).expect("a charge");
        assert_eq!(charge.nano_usd, entry.amounts.money);
        (entry.amounts.tokens, charge.certainty)
    });
    let mut charges: Vec<_> = charges.collect();
    charges.sort_unstable();
    let estimated = Certainty::Estimated;
    assert_eq!(charges, [(120, estimated), (150, Certainty::Exact), (300, estimated)]);
}

#[tokio::test(start_paused = true)]
async fn p10_a_call_that_no_budget_is_on_is_charged_when_it_has_ended() {
    let store = Arc::new(MemoryStore::new());
    let desk = cashier(&store, Vec::new());
    let payer = payer();
    let ask = || purchase(&payer, 100, Some(200));
    drop(desk.reserve(ask()).await.expect("nothing is in its way"));
    let mut released = desk.reserve(ask()).await.expect("nothing is in its way");
    released.sent();
    released.release();
    let mut unseen = desk.reserve(ask()).await.expect("nothing is in its way");
    unseen.sent();
    let mut whole = desk.reserve(ask()).await.expect("nothing is in its way");
    whole.sent();
    let charged = whole.settle("gpt-6.1-sol", usage(90, 30), false);
    let unseen_id = unseen.id();
    drop(unseen);
    desk.close().await;
    let entries = store.entries(EntryFilter::default()).await.expect("the store is there");
    let mut kept: Vec<_> = entries.iter().map(|entry| (entry.id, entry.amounts.tokens)).collect();
    kept.sort_unstable();
    let mut expected = vec![(unseen_id, 300), (charged.id, 120)];
    expected.sort_unstable();
    assert_eq!(kept, expected);
    assert!(entries.iter().all(|entry| entry.kind == EntryKind::Settled), "{entries:?}");
}

#[tokio::test(start_paused = true)]
async fn g9_what_a_dead_node_held_is_charged_in_full_and_late_usage_puts_it_right() {
    let store = Arc::new(MemoryStore::new());
    let desk = cashier(&store, vec![budget(Scope::Tenant, Window::Day, 1_000)]);
    let payer = payer();
    let mut reservation = desk.reserve(purchase(&payer, 100, Some(200))).await.expect("room");
    reservation.sent();
    desk.abandon();
    drop(reservation);
    let next = cashier(&store, vec![budget(Scope::Tenant, Window::Day, 1_000)]);
    assert_eq!(used(&next).await, (0, 300));
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(used(&next).await, (300, 0));
    let entries = store.entries(EntryFilter::default()).await.expect("the store is there");
    assert_eq!(entries[0].kind, EntryKind::Expired);
}

#[tokio::test(start_paused = true)]
async fn p7_whoever_does_not_say_how_long_an_answer_may_be_is_told_when_it_is_limited() {
    let store = Arc::new(MemoryStore::new());
    let payer = payer();
    let free = cashier(&store, Vec::new());
    let reservation = free.reserve(purchase(&payer, 100, None)).await.expect("no budget");
    assert_eq!(reservation.cap(), None);
    let tight = cashier(&store, vec![budget(Scope::Session, Window::Whole, 16_000)]);
    let reservation = tight.reserve(purchase(&payer, 100, None)).await.expect("there is room");
    assert_eq!(reservation.cap(), Some(8_192));
    let nearing: Vec<String> = reservation.nearing().iter().map(ToString::to_string).collect();
    assert_eq!(
        nearing,
        ["50 % of the budget of session `acme/s` (16000 tokens) are used or reserved"]
    );
    let per_call = cashier(&store, vec![budget(Scope::Tenant, Window::Call, 150)]);
    assert!(per_call.reserve(purchase(&payer, 100, Some(50))).await.is_ok());
    let refused = per_call.reserve(purchase(&payer, 100, Some(51))).await.err().expect("too long");
    assert!(matches!(refused, NotReserved::OverBudget(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn g9_of_200_calls_at_once_only_as_many_are_made_as_fit() {
    let store = Arc::new(MemoryStore::new());
    let desk = Arc::new(cashier(&store, vec![budget(Scope::Tenant, Window::Day, 50 * 30)]));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let desk = Arc::clone(&desk);
        calls.spawn(async move {
            let payer = payer();
            let reserved = desk.reserve(purchase(&payer, 10, Some(20))).await;
            let Ok(mut reservation) = reserved else { return 0 };
            reservation.sent();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (spent, held) = used(&desk).await;
            assert!(spent + held <= 1_500, "{spent} + {held}");
            reservation.settle("gpt-6.1-sol", usage(10, 20), false);
            1
        });
    }
    let mut made = 0;
    while let Some(call) = calls.join_next().await {
        made += call.expect("no panic");
    }
    assert_eq!(made, 50);
    desk.close().await;
    assert_eq!(used(&desk).await, (1_500, 0));
}

#[tokio::test(start_paused = true)]
async fn g9_a_run_stops_at_its_budget_and_goes_on_when_that_is_raised() {
    let store = Arc::new(MemoryStore::new());
    let model =
        ScriptedModel::new(vec![Says::Calls(vec![("report_progress", "{}")]), Says::Text("done")]);
    let start = |tokens| {
        let spec = AgentSpec { max_output_tokens: Some(20), ..AgentSpec::new("m") };
        let model: Arc<dyn steadfast_providers::model::Model> =
            Arc::<ScriptedModel>::clone(&model) as _;
        let catalog = Catalog::builder().model("m", model, true).agent("worker", spec);
        let catalog = catalog.build().expect("the catalog fits together");
        let terms = Some(terms(vec![budget(Scope::Run, Window::Whole, tokens)]));
        let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        Runtime::start(store, catalog, RuntimeOptions { terms, ..RuntimeOptions::default() })
    };
    let runtime = start(30).await.expect("starts");
    let run = runtime.submit(SubmitRun::new("worker", "work")).await.expect("submitted").run.id;
    // The first answer uses 15, and the second could use 21.
    let view = runtime.wait(run).await.expect("it ends");
    assert_eq!(view.state, "failed");
    let ending = format!("{:?}", runtime.fold(run).await.expect("folds").ending);
    assert!(ending.contains("Budget") && ending.contains("30 tokens"), "{ending}");
    assert_eq!(model.requests.lock().len(), 1);
    runtime.cashier().replace_terms(terms(vec![budget(Scope::Run, Window::Whole, 300)]));
    runtime.retry(RetryRun { run, by: "test".to_owned() }).await.expect("retried");
    let view = runtime.wait(run).await.expect("it ends");
    assert_eq!(view.state, "succeeded");
    let cashier = Arc::clone(runtime.cashier());
    cashier.close().await;
    let subject = Some(format!("run:{run}"));
    let entries = store.entries(EntryFilter { subject, ..EntryFilter::default() }).await;
    let tokens: Vec<u64> =
        entries.expect("the store is there").iter().map(|entry| entry.amounts.tokens).collect();
    assert_eq!(tokens, [15, 15]);
    runtime.shutdown().await.expect("shuts down");
}
