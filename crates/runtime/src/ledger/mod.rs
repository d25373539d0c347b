//! Who pays for a call, and which budgets it falls under (SCOPE G9, P7).
//!
//! A call has a [`Payer`]: a tenant and, as far as they are known, a user, a key, an agent, a session, a run
//! with those it descends from, and the operation it belongs to. Each is an account for each window in which
//! something is limited or reported. [`plan`] finds the accounts of a call; what they hold is the store's
//! business. A call must fit into all of them, so a run's children live within what is left of their parent.
//!
//! Everything here is a pure function of its arguments.

mod account;
mod cashier;
mod money;
mod payer;
mod plan;
mod refusal;
mod rule;
mod teller;
mod window;

pub use cashier::{
    ANSWER_MAX, BudgetStanding, Cashier, Charge, Charged, Nearing, NotReserved, Purchase,
    Reservation, Terms,
};
pub use money::Money;
pub use payer::{Payer, Scope};
pub use plan::{CallLimit, Limit, Limited, Plan, plan};
pub use refusal::{Measure, OverBudget};
pub use rule::{BudgetError, BudgetRule, check_budgets};
pub use window::{Bounds, Window};
