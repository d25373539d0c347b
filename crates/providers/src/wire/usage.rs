//! What providers say of tokens, in [`Usage`]'s disjoint buckets.
//!
//! OpenAI counts cached tokens into the prompt, Anthropic beside it: a figure taken over without that
//! is charged twice or not at all.

use serde_json::Value;

use crate::model::{ServiceTier, Usage};

fn tier(value: Option<&Value>) -> Option<ServiceTier> {
    value.and_then(Value::as_str).and_then(ServiceTier::named)
}

/// The `usage` of a chat completion, of its last chunk, or of embeddings.
pub(crate) fn chat(usage: &Value) -> Usage {
    openai(usage, ["prompt_tokens", "completion_tokens"])
}

/// The `usage` of a response.
pub(crate) fn responses(usage: &Value) -> Usage {
    openai(usage, ["input_tokens", "output_tokens"])
}

fn openai(usage: &Value, [input, output]: [&str; 2]) -> Usage {
    let number = |name: &str| usage.get(name).and_then(Value::as_u64);
    let detail = |of: &str, name: &str| usage.get(format!("{of}_details"))?.get(name)?.as_u64();
    let cache_read = detail(input, "cached_tokens");
    let cache_write = detail(input, "cache_write_tokens");
    Usage {
        input_uncached: number(input).map(|all| {
            all.saturating_sub(cache_read.unwrap_or(0)).saturating_sub(cache_write.unwrap_or(0))
        }),
        cache_read,
        cache_write,
        cache_write_1h: None,
        output: number(output),
        output_reasoning: detail(output, "reasoning_tokens"),
        input_audio: detail(input, "audio_tokens"),
        output_audio: detail(output, "audio_tokens"),
        service_tier: tier(usage.get("service_tier")),
    }
}

/// Takes over what an Anthropic `usage` says. Its figures are totals so far, so later ones win; what it
/// leaves out stays. `input_tokens` is without the cached ones. A write that no breakdown puts into the
/// hour is one of five minutes: with server tools the breakdown covers only the first round.
pub(crate) fn merge_messages(usage: &mut Usage, reported: &Value) {
    let number = |name: &str| reported.get(name).and_then(Value::as_u64);
    let kept = |name: &str| reported.get("cache_creation")?.get(name)?.as_u64();
    usage.input_uncached = number("input_tokens").or(usage.input_uncached);
    usage.cache_read = number("cache_read_input_tokens").or(usage.cache_read);
    usage.output = number("output_tokens").or(usage.output);
    let reasoning =
        reported.pointer("/output_tokens_details/thinking_tokens").and_then(Value::as_u64);
    usage.output_reasoning = reasoning.or(usage.output_reasoning);
    usage.service_tier = tier(reported.get("service_tier")).or(usage.service_tier);

    let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    let broken_down = (kept("ephemeral_5m_input_tokens"), kept("ephemeral_1h_input_tokens"));
    let before = sum(usage.cache_write, usage.cache_write_1h);
    let told = sum(broken_down.0, broken_down.1);
    if let Some(all) = number("cache_creation_input_tokens").or(told).or(before) {
        let hour = broken_down.1.or(usage.cache_write_1h).map(|hour| hour.min(all));
        usage.cache_write_1h = hour;
        usage.cache_write = Some(all - hour.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn openai_counts_the_cached_into_the_prompt_and_absent_is_not_zero() {
        let usage = chat(&json!({
            "prompt_tokens": 100, "completion_tokens": 9, "service_tier": "flex",
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }));
        let expected = Usage {
            input_uncached: Some(10),
            cache_read: Some(60),
            cache_write: Some(30),
            output: Some(9),
            output_reasoning: Some(4),
            input_audio: Some(0),
            service_tier: Some(ServiceTier::Flex),
            ..Usage::default()
        };
        assert_eq!(usage, expected);
        assert_eq!(chat(&json!({})), Usage::default());
        assert_eq!(
            chat(&json!({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}))
                .input_uncached,
            Some(0)
        );
        let usage = responses(&json!({
            "input_tokens": 7, "output_tokens": 3,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 1},
        }));
        assert_eq!((usage.input_uncached, usage.cache_read), (Some(5), Some(2)));
        assert_eq!((usage.output, usage.output_reasoning), (Some(3), Some(1)));
    }

    #[test]
    fn anthropics_last_figures_win_and_writes_that_no_breakdown_covers_are_of_five_minutes() {
        let mut usage = Usage::default();
        merge_messages(
            &mut usage,
            &json!({
                "input_tokens": 5, "cache_creation_input_tokens": 40, "cache_read_input_tokens": 7,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
                "output_tokens": 1, "service_tier": "standard",
            }),
        );
        assert_eq!((usage.cache_write, usage.cache_write_1h), (Some(10), Some(30)));
        merge_messages(
            &mut usage,
            &json!({
                "cache_creation_input_tokens": 100, "output_tokens": 50,
            }),
        );
        let expected = Usage {
            input_uncached: Some(5),
            cache_read: Some(7),
            cache_write: Some(70),
            cache_write_1h: Some(30),
            output: Some(50),
            service_tier: Some(ServiceTier::Standard),
            ..Usage::default()
        };
        assert_eq!(usage, expected);
        assert_eq!(usage.input_total(), 112);
        let mut none = Usage::default();
        merge_messages(&mut none, &json!({"output_tokens": 0}));
        assert_eq!(none, Usage { output: Some(0), ..Usage::default() });
    }
}
