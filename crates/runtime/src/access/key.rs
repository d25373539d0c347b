//! What a key is: whom it acts for, what it may do, and until when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use steadfast_guard::{LimiterPolicy, RatePolicy};
use steadfast_store::Timestamp;

use crate::error::RuntimeError;

/// Longest name, tenant, user, agent, model or label, in bytes.
const TEXT_BYTES_MAX: usize = 128;

/// Most models of a key.
const MODELS_MAX: usize = 100;

/// Most labels of a key.
const LABELS_MAX: usize = 32;

/// A limit a minute beyond this is a slip.
const PER_MINUTE_MAX: u64 = 1 << 50;

/// What one key may do in a time. Each node counts its own; absent means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests a minute, 1 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, 1 or more: reserved before a call and settled after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Calls under way at once, 1 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
}

impl KeyLimits {
    pub(super) fn policy(self) -> LimiterPolicy {
        let Self { requests_per_minute, tokens_per_minute, at_once } = self;
        let rate = RatePolicy { requests_per_minute, tokens_per_minute, ..RatePolicy::default() };
        LimiterPolicy { rate, at_once }
    }
}

/// What the key may spend, kept with it for whoever keeps the books: nothing here counts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBudget {
    /// When it begins anew: `hour`, `day`, `week`, `month`, or `whole` for never.
    pub window: String,
    /// Input and output tokens together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money in USD, as a decimal number with at most nine decimals, such as `12.50`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
}

/// The windows of a budget.
const WINDOWS: [&str; 5] = ["hour", "day", "week", "month", "whole"];

/// What a key is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// What people call it. Two keys may have the same.
    pub name: String,
    /// The tenant that it acts for.
    pub tenant: String,
    /// The user of the tenant, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The agent that calls with it, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Models that it may call: names, or beginnings with a `*` behind. None means every model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// How much in a time.
    #[serde(default)]
    pub limits: KeyLimits,
    /// What it may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<KeyBudget>,
    /// The first moment at which it is good for nothing, in milliseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Good for nothing until that is changed.
    #[serde(default)]
    pub disabled: bool,
    /// Words by which people and programs sort keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Changes of a key: what is absent stays. An empty list takes a limit away, `null` what may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyEdit {
    /// Another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Another user, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub user: Option<Option<String>>,
    /// Another agent, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub agent: Option<Option<String>>,
    /// Other models, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Another limit of requests a minute, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<Option<u64>>,
    /// Another limit of tokens a minute, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<Option<u64>>,
    /// Another limit of calls at once, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub at_once: Option<Option<u32>>,
    /// Another budget, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub budget: Option<Option<KeyBudget>>,
    /// Another end, or none.
    #[serde(with = "said", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
    /// Whether it is good for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Other labels, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// `null` is said, too: serde alone takes it for absent.
mod said {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes fields by reference")]
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

impl KeyEdit {
    pub(super) fn apply(self, spec: &mut KeySpec) {
        fn set<T>(value: Option<T>, place: &mut T) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(self.name, &mut spec.name);
        set(self.user, &mut spec.user);
        set(self.agent, &mut spec.agent);
        set(self.models, &mut spec.models);
        set(self.requests_per_minute, &mut spec.limits.requests_per_minute);
        set(self.tokens_per_minute, &mut spec.limits.tokens_per_minute);
        set(self.at_once, &mut spec.limits.at_once);
        set(self.budget, &mut spec.budget);
        set(self.expires_at, &mut spec.expires_at);
        set(self.disabled, &mut spec.disabled);
        set(self.labels, &mut spec.labels);
    }
}

impl KeySpec {
    /// Refuses what could never be kept or used.
    ///
    /// # Errors
    /// Names the first field that is not acceptable, and what is.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let required = [("name", &self.name), ("tenant", &self.tenant)];
        let optional = [("user", &self.user), ("agent", &self.agent)];
        let optional = optional.iter().filter_map(|(field, text)| Some((*field, text.as_ref()?)));
        let models = self.models.iter().map(|model| ("models", model));
        let labels =
            self.labels.iter().flat_map(|(name, text)| [("labels", name), ("labels", text)]);
        for (field, text) in required.into_iter().chain(optional).chain(models).chain(labels) {
            text_fits(field, text)?;
        }
        let stars = self
            .models
            .iter()
            .find(|model| model.strip_suffix('*').unwrap_or(model.as_str()).contains('*'));
        if let Some(model) = stars {
            return refuse(format!("model `{model}`: a `*` can only be the last letter"));
        }
        for (field, count, most) in
            [("models", self.models.len(), MODELS_MAX), ("labels", self.labels.len(), LABELS_MAX)]
        {
            if count > most {
                return refuse(format!("a key has {count} {field}, and the limit is {most}"));
            }
        }
        let KeyLimits { requests_per_minute, tokens_per_minute, at_once } = self.limits;
        for (field, limit) in [
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
            ("at_once", at_once.map(u64::from)),
        ] {
            if let Some(limit) = limit.filter(|limit| !(1..=PER_MINUTE_MAX).contains(limit)) {
                return refuse(format!(
                    "`{field}` is {limit}: use 1 to {PER_MINUTE_MAX}, or leave it out for no limit"
                ));
            }
        }
        self.budget.as_ref().map_or(Ok(()), KeyBudget::check)
    }
}

impl KeyBudget {
    fn check(&self) -> Result<(), RuntimeError> {
        if !WINDOWS.contains(&self.window.as_str()) {
            let known = WINDOWS.join(", ");
            return refuse(format!("`budget.window` is `{}`; there are: {known}", self.window));
        }
        if self.tokens.is_none() && self.usd.is_none() {
            return refuse("a budget needs `tokens`, `usd` or both".to_owned());
        }
        match &self.usd {
            Some(usd) if !is_amount(usd) => refuse(format!(
                "`budget.usd` is `{usd}`: write a decimal number of at most nine decimals as a text, \
                 such as `12.50`"
            )),
            _ => Ok(()),
        }
    }
}

/// Nine digits before and after the point are exact in whole nano-USD.
fn is_amount(text: &str) -> bool {
    let digits =
        |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    digits(whole) && digits(decimals)
}

fn refuse<T>(problem: String) -> Result<T, RuntimeError> {
    Err(RuntimeError::InvalidInput { problem })
}

fn text_fits(field: &str, text: &str) -> Result<(), RuntimeError> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
        return refuse(format!(
            "`{field}` of a key must have 1 to {TEXT_BYTES_MAX} bytes, and no line breaks or other \
             control characters"
        ));
    }
    Ok(())
}

/// How a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Its secret lets in.
    Active,
    /// Good for nothing until it is enabled.
    Disabled,
    /// Its time is over.
    Expired,
    /// Taken back for good.
    Revoked,
}

impl KeyState {
    /// As one stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A key as everybody may see it: without any secret, and without what is kept of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// Its short public name: `k_` and ten letters. Fit for logs, labels and the books.
    pub id: String,
    /// How it stands, at the moment of the answer.
    pub state: KeyState,
    /// What it is.
    #[serde(flatten)]
    pub spec: KeySpec,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it got another secret, if it did.
    pub rotated_at: Option<Timestamp>,
    /// Until when the secrets before still let in, each; the latest last.
    pub old_secrets_until: Vec<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// About when it last let somebody in: told every ten minutes at most.
    pub last_used_at: Option<Timestamp>,
    /// How many secrets it has had.
    pub secrets: u64,
}

impl AccessKey {
    /// Whether it may call a model.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        self.spec.models.is_empty() || crate::agent::names(&self.spec.models, model)
    }

    /// How it stands at a moment.
    pub(super) fn state_at(&self, now: Timestamp) -> KeyState {
        match (self.revoked_at, self.spec.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(end)) if end <= now => KeyState::Expired,
            _ if self.spec.disabled => KeyState::Disabled,
            _ => KeyState::Active,
        }
    }
}
