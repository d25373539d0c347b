//! Where calls are paid for: an upper bound is held before a call leaves, what it cost is charged when that
//! is known. Runs and the gateway use the same one.
//!
//! A [`Reservation`] that is dropped charges what was last said of it: nothing before the call was sent, all
//! that was reserved from then on, and an estimate once some of the answer has been seen. So neither a
//! cancelled call nor a crash makes a call free.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::tz::TimeZone;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use steadfast_providers::model::{ServiceTier, Usage};
use steadfast_store::{
    Account, Amounts, Balance, EntryId, Hold, Limits, Store, StoreError, Timestamp,
};
use tracing::warn;

use super::teller::{OpenHold, Taken, Teller};
use super::{BudgetRule, Limited, Measure, Money, OverBudget, Payer, Plan, plan};
use crate::prices::{Ask, Certainty, Consumption, PriceError, PriceTable, RateId, UnknownPrice};

/// For how long a reservation is kept beyond the longest that its call may take.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(60);

/// What calls cost and what they may cost.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The prices.
    pub prices: PriceTable,
    /// The budgets.
    pub budgets: Vec<BudgetRule>,
    /// Whose days, weeks and months count.
    pub zone: TimeZone,
    /// The longest answer of a call that falls under a budget and does not say how long it may be.
    pub answer_max: u64,
}

/// [`Terms::answer_max`], by default.
pub const ANSWER_MAX: u64 = 8_192;

impl Terms {
    /// The prices of the table, no budgets, and the days of UTC.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn built_in() -> Result<Self, PriceError> {
        let (prices, budgets) = (PriceTable::built_in()?, Vec::new());
        Ok(Self { prices, budgets, zone: TimeZone::UTC, answer_max: ANSWER_MAX })
    }
}

/// Reserves for calls and charges them. One for a node.
pub struct Cashier {
    store: Arc<dyn Store>,
    teller: Teller,
    terms: RwLock<Arc<Terms>>,
}

/// A call that is to be paid for.
#[derive(Clone, Copy, Debug)]
pub struct Purchase<'a> {
    /// Who pays.
    pub payer: &'a Payer,
    /// The provider, as it is named in the configuration.
    pub provider: &'a str,
    /// The model, as the provider names it.
    pub model: &'a str,
    /// Input tokens at most.
    pub input_tokens: u64,
    /// Output tokens at most, of all its answers together; `None` if it does not say.
    pub output_max: Option<u64>,
    /// Whether it asks for cache entries that live an hour or longer.
    pub long_cache: bool,
    /// Whether sound goes in or comes out.
    pub audio: bool,
    /// The service tier that it asks for.
    pub service: Option<&'a str>,
    /// Its answers are scripted and cost nothing; its tokens are counted.
    pub simulated: bool,
    /// How long it may take at most.
    pub within: std::time::Duration,
}

/// Why nothing is reserved, so that the call must not be made.
#[derive(Debug, thiserror::Error)]
pub enum NotReserved {
    /// A budget has no room for it.
    #[error(transparent)]
    OverBudget(Box<OverBudget>),
    /// Nobody knows what it costs.
    #[error(transparent)]
    UnknownPrice(#[from] UnknownPrice),
    /// It does not fit into any account: no real call is so large.
    #[error("the call may use {tokens} tokens, which is more than any budget counts")]
    TooLarge {
        /// How many.
        tokens: u64,
    },
    /// The store failed.
    #[error("cannot reserve for the call: {0}")]
    Store(#[from] StoreError),
}

/// What was charged once, as it is kept for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Who paid.
    pub payer: Payer,
    /// The provider.
    pub provider: String,
    /// The model that answered, as its provider named it.
    pub model: String,
    /// What was used.
    pub usage: Usage,
    /// What it cost, in nano-USD.
    pub nano_usd: u64,
    /// How sure that is.
    pub certainty: Certainty,
    /// By which rate it was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateId>,
}

/// A budget of which a share has been used that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearing {
    /// How the budget stands.
    pub budget: OverBudget,
    /// The share in percent that has been passed.
    pub percent: u8,
}

impl fmt::Display for Nearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OverBudget { scope, name, measure, limit, .. } = &self.budget;
        let (percent, limit, scope) = (self.percent, measure.amount(*limit), scope.word());
        write!(f, "{percent} % of the budget of {scope} `{name}` ({limit}) are used or reserved")
    }
}

/// What is held for a call.
pub struct Reservation {
    hold: OpenHold,
    terms: Arc<Terms>,
    /// What is charged if nothing more is known.
    charge: Charge,
    at_ms: i64,
    bound: Amounts,
    is_free: bool,
    service: Option<String>,
    plan: Plan,
    nearing: Vec<Nearing>,
    cap: Option<u64>,
}

impl Cashier {
    /// Begins to keep the books of a node; holds of dead nodes are charged when their time is over. Its
    /// tasks end with [`Cashier::close`].
    #[must_use]
    pub fn start(store: Arc<dyn Store>, terms: Terms) -> Self {
        let teller = Teller::start(Arc::clone(&store));
        Self { store, teller, terms: RwLock::new(Arc::new(terms)) }
    }

    /// The terms in force.
    #[must_use]
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read())
    }

    /// Puts other terms in force. Calls under way are settled by those they began with.
    pub fn replace_terms(&self, terms: Terms) {
        *self.terms.write() = Arc::new(terms);
    }

    /// Refuses what is new, waits until every call under way has been charged, and writes that.
    pub async fn close(&self) {
        self.teller.close().await;
    }

    /// Drops everything at once, as a crash would: what is open is charged when its time is over.
    pub fn abandon(&self) {
        self.teller.abandon();
    }

    /// Reserves for a call. Once it has returned, the reservation is on disk, and what is spent and
    /// reserved together is within every budget. Dropping the future reserves nothing.
    ///
    /// # Errors
    /// See [`NotReserved`].
    pub async fn reserve(&self, purchase: Purchase<'_>) -> Result<Reservation, NotReserved> {
        let terms = self.terms();
        let at = self.store.now();
        let plan = plan(&terms.budgets, purchase.payer, at, &terms.zone);
        let is_limited = !plan.limited.is_empty() || !plan.calls.is_empty();
        let longest = || terms.prices.output_max(Some(purchase.provider), purchase.model);
        let cap = match purchase.output_max {
            Some(said) => said,
            None if is_limited => longest().unwrap_or(u64::MAX).min(terms.answer_max),
            None => longest().unwrap_or(terms.answer_max),
        };
        let (rate, bound) = bound(&terms.prices, &purchase, cap, at)?;
        for limit in &plan.calls {
            let checked = limit.check(bound.tokens, bound.money);
            checked.map_err(|over| NotReserved::OverBudget(Box::new(over)))?;
        }
        let bound_usage = Usage {
            input_uncached: Some(purchase.input_tokens),
            output: Some(cap),
            ..Usage::default()
        };
        let charge = Charge {
            payer: purchase.payer.clone(),
            provider: purchase.provider.to_owned(),
            model: purchase.model.to_owned(),
            usage: bound_usage,
            nano_usd: bound.money,
            certainty: Certainty::Estimated,
            rate: rate.clone(),
        };
        let subject = subject(purchase.payer);
        let (hold, nearing) = if plan.limited.is_empty() {
            // There is nothing that it could exceed.
            (self.teller.unheld(subject).await?, Vec::new())
        } else {
            let hold = Hold {
                id: EntryId::generate(),
                amounts: bound,
                limited: plan.limited.iter().map(limits).collect(),
                tallies: plan.tallies.clone(),
                keep: purchase.within.saturating_add(SETTLING),
                subject,
                body: encode(&charge),
            };
            match self.teller.hold(hold).await? {
                Taken::Granted(hold, balances) => (hold, nearing(&terms, &plan, &balances, bound)),
                Taken::Refused { place, balance } => {
                    return Err(refusal(&plan, place, &balance, bound));
                }
            }
        };
        Ok(Reservation {
            hold,
            nearing,
            cap: (is_limited && purchase.output_max.is_none()).then_some(cap),
            bound,
            charge,
            at_ms: at.0,
            is_free: purchase.simulated,
            service: purchase.service.map(str::to_owned),
            plan,
            terms,
        })
    }

    /// How the budgets of a payer stand at this moment.
    ///
    /// # Errors
    /// The store failed.
    pub async fn standing(&self, payer: &Payer) -> Result<Vec<BudgetStanding>, StoreError> {
        let terms = self.terms();
        let plan = plan(&terms.budgets, payer, self.store.now(), &terms.zone);
        let accounts: Vec<Account> =
            plan.limited.iter().map(|limited| limited.account.clone()).collect();
        let balances = self.store.balances(accounts).await?;
        let pairs = plan.limited.into_iter().zip(balances);
        Ok(pairs.map(|(limited, balance)| BudgetStanding { limited, balance }).collect())
    }
}

/// A budget and what has been used of it.
#[derive(Clone, Debug)]
pub struct BudgetStanding {
    /// The account and its limits.
    pub limited: Limited,
    /// How it stands.
    pub balance: Balance,
}

/// The most that a call may cost.
fn bound(
    prices: &PriceTable,
    purchase: &Purchase<'_>,
    output_max: u64,
    at: Timestamp,
) -> Result<(Option<RateId>, Amounts), NotReserved> {
    let tokens = purchase.input_tokens.saturating_add(output_max);
    if purchase.simulated {
        return Ok((None, fitting(Amounts { tokens, money: 0 })?));
    }
    let cost = prices.upper_bound(&Ask {
        provider: Some(purchase.provider),
        model: purchase.model,
        at_ms: at.0,
        input_tokens: purchase.input_tokens,
        output_max,
        long_cache: purchase.long_cache,
        audio: purchase.audio,
        service: purchase.service,
        region: None,
    })?;
    let amounts = Amounts { tokens, money: cost.nano_usd.unwrap_or(0) };
    Ok((Some(cost.rate), fitting(amounts)?))
}

const fn fitting(amounts: Amounts) -> Result<Amounts, NotReserved> {
    let Amounts { tokens, money } = amounts;
    if tokens > steadfast_store::AMOUNT_MAX || money > steadfast_store::AMOUNT_MAX {
        return Err(NotReserved::TooLarge { tokens });
    }
    Ok(amounts)
}

fn limits(limited: &Limited) -> (Account, Limits) {
    let limits = Limits {
        tokens: limited.tokens.map(|limit| limit.limit),
        money: limited.money.map(|limit| limit.limit),
    };
    (limited.account.clone(), limits)
}

/// What the entries of a payer's calls are found by: its run, or else its session.
fn subject(payer: &Payer) -> Option<String> {
    let run = payer.run.as_ref().map(|run| format!("run:{run}"));
    run.or_else(|| payer.session.as_ref().map(|session| format!("session:{session}"))).map(
        |mut subject| {
            let end = subject.floor_char_boundary(steadfast_store::ACCOUNT_BYTES_MAX);
            subject.truncate(end);
            subject
        },
    )
}

fn refusal(plan: &Plan, place: usize, balance: &Balance, needed: Amounts) -> NotReserved {
    let Some(limited) = plan.limited.get(place) else {
        let problem = "the store refuses an account that was not asked about";
        return NotReserved::Store(StoreError::Misuse { problem });
    };
    let after = balance.spent.plus(balance.held).plus(needed);
    let lacks_tokens = limited.tokens.is_some_and(|limit| after.tokens > limit.limit);
    let (measure, pick): (_, fn(Amounts) -> u64) = if lacks_tokens {
        (Measure::Tokens, |amounts| amounts.tokens)
    } else {
        (Measure::NanoUsd, |amounts| amounts.money)
    };
    let over = limited.refusal(measure, pick(balance.spent), pick(balance.held), pick(needed));
    NotReserved::OverBudget(Box::new(over))
}

/// Budgets of which this reservation has passed a share that is to be told.
fn nearing(terms: &Terms, plan: &Plan, balances: &[Balance], bound: Amounts) -> Vec<Nearing> {
    let mut found = Vec::new();
    for (limited, balance) in plan.limited.iter().zip(balances) {
        let after = balance.spent.plus(balance.held);
        let before = after.minus(bound);
        let measured = [
            (Measure::Tokens, limited.tokens, before.tokens, after.tokens),
            (Measure::NanoUsd, limited.money, before.money, after.money),
        ];
        for (measure, limit, before, after) in measured {
            let Some(limit) = limit else { continue };
            let rule = terms.budgets.get(limit.rule);
            let passed = rule.and_then(|rule| rule.passed(limit.limit, before, after));
            if let Some(percent) = passed {
                let budget = limited.refusal(measure, before, after - before, 0);
                found.push(Nearing { budget, percent });
            }
        }
    }
    found
}

impl Reservation {
    /// Its name in the books.
    #[must_use]
    pub const fn id(&self) -> EntryId {
        self.hold.id()
    }

    /// The most that it may cost, in nano-USD, and in tokens.
    #[must_use]
    pub const fn bound(&self) -> (Money, u64) {
        (Money::from_nano(self.bound.money), self.bound.tokens)
    }

    /// The longest answer that the call must ask for, in tokens, because it falls under a budget and did
    /// not say.
    #[must_use]
    pub const fn cap(&self) -> Option<u64> {
        self.cap
    }

    /// Budgets that are close to their end since this reservation.
    #[must_use]
    pub fn nearing(&self) -> &[Nearing] {
        &self.nearing
    }

    /// The call leaves now: from here on it counts in full unless more is known.
    pub fn sent(&mut self) {
        self.hold.note(self.bound, Some(self.plan.tallies.clone()), encode(&self.charge));
    }

    /// Some of the answer has been seen: if the call ends here, it is charged with this.
    pub fn seen(&mut self, usage: Usage) -> Money {
        self.charge(None, usage, true)
    }

    /// Charges what was used. `model` is the one that answered, as its provider named it.
    pub fn settle(mut self, model: &str, usage: Usage, estimated: bool) -> Charged {
        let money = self.charge(Some(model), usage, estimated);
        Charged { id: self.id(), cost: money }
    }

    /// Charges nothing: the call was surely not made.
    pub fn release(self) {
        self.hold.release();
    }

    fn charge(&mut self, model: Option<&str>, usage: Usage, estimated: bool) -> Money {
        let model =
            model.filter(|model| !model.is_empty()).unwrap_or(&self.charge.model).to_owned();
        // What the provider calls itself may be in no list; what was asked for is what was reserved.
        let prices = &self.terms.prices;
        let served = usage.service_tier.map(ServiceTier::as_str);
        let known = prices.knows(Some(&self.charge.provider), &model);
        let cost = prices.cost(&Consumption {
            provider: Some(&self.charge.provider),
            model: if known { &model } else { &self.charge.model },
            at_ms: self.at_ms,
            usage,
            audio_input: usage.input_audio.unwrap_or(0),
            audio_output: usage.output_audio.unwrap_or(0),
            service: served.or(self.service.as_deref()),
            estimated,
            ..Consumption::default()
        });
        let (money, certainty) = match cost.nano_usd {
            _ if self.is_free => {
                (0, if estimated { Certainty::Estimated } else { Certainty::Exact })
            }
            Some(nano) => (nano, cost.certainty),
            // The provider told nothing: it is charged as reserved.
            None => (self.bound.money, Certainty::Estimated),
        };
        let tokens = usage.total().unwrap_or(self.bound.tokens);
        if money > self.bound.money || tokens > self.bound.tokens {
            let (reserved, model) = (self.bound.tokens, &model);
            warn!(tokens, reserved, model, "a call used more than was reserved for it");
        }
        let charge = Charge {
            payer: self.charge.payer.clone(),
            provider: self.charge.provider.clone(),
            model,
            usage,
            nano_usd: money,
            certainty,
            rate: Some(cost.rate).filter(|_| !self.is_free),
        };
        self.hold.note(Amounts { tokens, money }, Some(self.plan.tallies.clone()), encode(&charge));
        Money::from_nano(money)
    }
}

/// What a call was charged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// Its name in the books.
    pub id: EntryId,
    /// What it cost.
    pub cost: Money,
}

fn encode(charge: &Charge) -> Bytes {
    // A struct of strings and numbers always has a JSON form.
    serde_json::to_vec(charge).map(Bytes::from).unwrap_or_default()
}
