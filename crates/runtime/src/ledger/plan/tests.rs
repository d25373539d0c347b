use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::ledger::check_budgets;

/// 2026-11-25, a Wednesday, 12:00 UTC.
const NOW: Timestamp = Timestamp(1_795_608_000_000);
const DAY: i64 = 1_795_564_800_000;

fn rules(text: &str) -> Vec<BudgetRule> {
    #[derive(Deserialize)]
    struct Rules {
        budget: Vec<BudgetRule>,
    }
    let rules = toml::from_str::<Rules>(text).expect("rules").budget;
    check_budgets(&rules).expect("good");
    rules
}

fn payer() -> Payer {
    let some = |name: &str| Some(name.to_owned());
    Payer {
        tenant: "acme".to_owned(),
        user: some("ann"),
        key: some("k1"),
        agent: some("coder"),
        session: some("s1"),
        run: some("r3"),
        ancestors: vec!["r2".to_owned(), "r1".to_owned()],
        operation: some("planning"),
        model: some("openai/gpt-5"),
    }
}

/// Name, tokens, nano-USD of each account with a limit.
fn limits(rules: &[BudgetRule], payer: &Payer) -> Vec<(String, Option<u64>, Option<u64>)> {
    let plan = plan(rules, payer, NOW, &TimeZone::UTC);
    let of = |limit: Option<Limit>| limit.map(|limit| limit.limit);
    let row = |limited: Limited| (limited.account.name, of(limited.tokens), of(limited.money));
    plan.limited.into_iter().map(row).collect()
}

#[test]
fn p7_days_sessions_and_operations_have_their_budgets() {
    let rules = rules(
        "
        [[budget]]
        scope = 'tenant'
        window = 'day'
        tokens = 100000
        [[budget]]
        scope = 'session'
        tokens = 5000
        [[budget]]
        scope = 'tenant'
        window = 'call'
        operations = ['planning']
        tokens = 1000
        [[budget]]
        scope = 'session'
        operations = ['reflection', 'planning']
        tokens = 1500
        [[budget]]
        scope = 'tenant'
        window = 'call'
        operations = ['reflection']
        tokens = 500
        ",
    );
    let limit = |name: &str, tokens| (name.to_owned(), Some(tokens), None);
    assert_eq!(
        limits(&rules, &payer()),
        [
            limit("session:acme/s1", 5_000),
            limit("session:acme/s1+planning,reflection", 1_500),
            limit("tenant:acme/day", 100_000),
        ]
    );
    let plan = plan(&rules, &payer(), NOW, &TimeZone::UTC);
    let [call] = plan.calls.as_slice() else { panic!("{:?}", plan.calls) };
    assert_eq!(call.check(1_000, u64::MAX), Ok(()));
    let refusal = call.check(1_001, 0).expect_err("too much");
    assert_eq!((refusal.limit, refusal.needed, refusal.window), (1_000, 1_001, Window::Call));
    // A call that says nothing of an operation falls under the rest.
    let other = Payer { operation: None, ..payer() };
    assert_eq!(limits(&rules, &other).len(), 2);
}

#[test]
fn g9_everybody_has_accounts_by_day_week_and_month() {
    let rules = rules(
        "
        [[budget]]
        scope = 'all'
        window = 'month'
        usd = 1000
        [[budget]]
        scope = 'user'
        window = 'week'
        usd = 5
        [[budget]]
        scope = 'key'
        window = 'month'
        tokens = 7
        ",
    );
    let plan = plan(&rules, &payer(), NOW, &TimeZone::UTC);
    let accounts: Vec<_> = plan
        .limited
        .iter()
        .map(|limited| (limited.account.name.as_str(), limited.account.since))
        .collect();
    let (monday, november) = (DAY - 2 * 86_400_000, DAY - 24 * 86_400_000);
    assert_eq!(
        accounts,
        [("all/month", november), ("key:acme/k1/month", november), ("user:acme/ann/week", monday)]
    );
    let refusal = plan.limited[2].refusal(Measure::NanoUsd, 4, 1, 9);
    assert_eq!((refusal.limit, refusal.name.as_str()), (5_000_000_000, "acme/ann"));
    assert_eq!(refusal.resets_at, Some(monday + 7 * 86_400_000));
}

#[test]
fn g9_the_most_particular_rule_counts_for_each_measure() {
    let rules = rules(
        "
        [[budget]]
        scope = 'user'
        window = 'day'
        tokens = 10
        usd = 1
        [[budget]]
        scope = 'user'
        name = 'ann'
        window = 'day'
        tokens = 1000
        [[budget]]
        scope = 'user'
        tenant = 'acme'
        window = 'day'
        tokens = 100
        ",
    );
    let of = |tenant: &str, user: &str| {
        let payer =
            Payer { tenant: tenant.to_owned(), user: Some(user.to_owned()), ..Payer::default() };
        let (_, tokens, money) = limits(&rules, &payer).remove(0);
        (tokens, money)
    };
    let usd = Some(1_000_000_000);
    assert_eq!(of("acme", "ann"), (Some(1_000), usd));
    assert_eq!(of("acme", "bob"), (Some(100), usd));
    assert_eq!(of("other", "bob"), (Some(10), usd));
    // A user of another tenant has a budget of their own.
    let names =
        |tenant: &str| limits(&rules, &Payer { tenant: tenant.to_owned(), ..payer() }).remove(0).0;
    assert_ne!(names("acme"), names("other"));
}

#[test]
fn g9_a_child_lives_within_what_is_left_of_its_parents() {
    let rules = rules("[[budget]]\nscope = 'run'\ntokens = 50");
    let names: Vec<_> = limits(&rules, &payer()).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["run:acme/r1", "run:acme/r2", "run:acme/r3"]);
}

#[test]
fn p10_what_has_no_limit_is_added_up_for_reports() {
    let names = |plan: Plan| -> Vec<String> {
        plan.tallies.into_iter().map(|account| account.name).collect()
    };
    let all = names(plan(&[], &payer(), NOW, &TimeZone::UTC));
    assert_eq!(
        all,
        [
            "agent:acme/coder/day",
            "key:acme/k1/day",
            "model:acme/openai%2Fgpt-5/day",
            "run:acme/r1",
            "run:acme/r2",
            "run:acme/r3",
            "session:acme/s1",
            "tenant:acme/day",
            "tenant:acme/month",
            "user:acme/ann/day",
        ]
    );
    let rules = rules("[[budget]]\nscope = 'tenant'\nwindow = 'day'\ntokens = 1");
    let rest = names(plan(&rules, &payer(), NOW, &TimeZone::UTC));
    assert_eq!(rest.len(), all.len() - 1);
    assert!(!rest.contains(&"tenant:acme/day".to_owned()));
    let bare = Payer { tenant: "acme".to_owned(), ..Payer::default() };
    let bare = names(plan(&[], &bare, NOW, &TimeZone::UTC));
    assert_eq!(bare, ["tenant:acme/day", "tenant:acme/month"]);
}

fn any_rule() -> impl Strategy<Value = BudgetRule> {
    use prop::sample::select;
    let scope = select(vec![
        Scope::All,
        Scope::Tenant,
        Scope::User,
        Scope::Key,
        Scope::Agent,
        Scope::Model,
        Scope::Session,
        Scope::Run,
    ]);
    let name = select(vec!["*", "acme", "ann", "r2", "s1"]);
    let tenant = prop::option::of(select(vec!["acme", "other"]));
    let window = select(vec![
        Window::Call,
        Window::Whole,
        Window::Hour,
        Window::Day,
        Window::Week,
        Window::Month,
    ]);
    let operations = select(vec![vec![], vec!["planning"], vec!["planning", "reflection"]]);
    let limits = (prop::option::of(0..9_u64), prop::option::of(0..9_u64));
    (scope, name, tenant, window, operations, limits).prop_map(
        |(scope, name, tenant, window, operations, (tokens, nano))| BudgetRule {
            scope,
            name: name.to_owned(),
            tenant: tenant.map(str::to_owned),
            window,
            tokens,
            usd: nano.map(crate::ledger::Money::from_nano),
            soft: vec![80],
            operations: operations.into_iter().map(str::to_owned).collect(),
        },
    )
}

proptest! {
    /// Whatever counts a call twice overspends or refuses wrongly.
    #[test]
    fn g9_no_account_is_counted_twice(all in prop::collection::vec(any_rule(), 0..12)) {
        let mut kept = Vec::new();
        for rule in all {
            kept.push(rule);
            if check_budgets(&kept).is_err() {
                kept.pop();
            }
        }
        let plan = plan(&kept, &payer(), NOW, &TimeZone::UTC);
        let limited = plan.limited.iter().map(|limited| limited.account.clone());
        let accounts: Vec<_> = limited.chain(plan.tallies.iter().cloned()).collect();
        let distinct: BTreeSet<_> = accounts.iter().map(|account| &account.name).collect();
        prop_assert_eq!(distinct.len(), accounts.len(), "{:?}", accounts);
        for (scope, window) in REPORTED {
            for party in scope.parties(&payer()) {
                let name = account_name(scope, &party, window, &[]);
                prop_assert!(distinct.contains(&name), "{name} is not reported");
            }
        }
        for limited in &plan.limited {
            for limit in [limited.tokens, limited.money].into_iter().flatten() {
                let rule = &kept[limit.rule];
                prop_assert!(rule.tokens == Some(limit.limit) || rule.usd.is_some_and(|usd| usd.nano() == limit.limit));
            }
        }
    }
}
