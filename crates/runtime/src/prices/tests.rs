//! Bills that other gateways got wrong, each with its sum by hand. 1 USD per million tokens is 1 000 nano-USD
//! a token, so `2 x 1000` below is two tokens at 1 USD.

use proptest::prelude::*;
use steadfast_providers::model::Usage;

use super::*;

/// 2026-11-20, 12:00 UTC.
const NOW: &str = "2026-11-20T12:00:00Z";

fn at(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().expect("a time").as_millisecond()
}

fn table() -> PriceTable {
    PriceTable::built_in().expect("the table is good")
}

/// Uncached, read from the cache, written to it, output.
fn usage(uncached: u64, read: u64, written: u64, output: u64) -> Usage {
    Usage {
        input_uncached: Some(uncached),
        cache_read: Some(read),
        cache_write: Some(written),
        output: Some(output),
        ..Usage::default()
    }
}

fn used(model: &str, usage: Usage) -> Consumption<'_> {
    Consumption { model, usage, at_ms: at(NOW), ..Consumption::default() }
}

fn check(used: &Consumption<'_>, nano_usd: u64) {
    let cost = table().cost(used);
    assert_eq!(cost.nano_usd, Some(nano_usd), "{cost:?}");
    assert_eq!(cost.certainty, Certainty::Exact, "{cost:?}");
}

fn with(rules: &str) -> Result<(PriceTable, Vec<PriceWarning>), PriceError> {
    table().with(&toml::from_str(rules).expect("rules"))
}

#[test]
fn p10_cached_input_is_not_counted_as_fresh() {
    // 6 x 1000 + 30940 x 100 + 100 x 5000
    check(&used("claude-haiku-4-5", usage(6, 30_940, 0, 100)), 3_600_000);
    // The name of the answer has a date: 4 x 3000 + 2600 x 300 + 50 x 15000
    check(&used("claude-sonnet-4-5-20250929", usage(4, 2_600, 0, 50)), 1_542_000);
    // 24 x 250 + 1000 x 25 + 10 x 2000
    check(&used("openai/gpt-5-mini-2025-08-07", usage(24, 1_000, 0, 10)), 51_000);
}

#[test]
fn p10_cache_writes_are_counted_once_and_by_how_long_they_live() {
    // 10 x 3000 + 10000 x 3750
    check(&used("claude-sonnet-4-5", usage(10, 0, 10_000, 0)), 37_530_000);
    // 2000 of them for an hour: 8000 x 3750 + 2000 x 6000. The breakdown covers a part; the rest is not lost.
    let hour = Usage { cache_write_1h: Some(2_000), ..usage(0, 0, 8_000, 0) };
    check(&used("claude-sonnet-4-5", hour), 42_000_000);
    // 100 x 2000 + 1000 x 2500
    check(&used("gpt-6-sol", usage(100, 0, 1_000, 0)), 2_700_000);
}

#[test]
fn p10_a_large_prompt_has_its_own_rates_and_cached_tokens_make_it_large() {
    // 272000 x 2000 + 1000 x 10000
    check(&used("gpt-6-sol", usage(272_000, 0, 0, 1_000)), 554_000_000);
    // 272001 x 4000 + 1000 x 15000
    check(&used("gpt-6-sol", usage(272_001, 0, 0, 1_000)), 1_103_004_000);
    // 1000 x 4000 + 271001 x 400 + 1000 x 15000
    check(&used("gpt-6-sol", usage(1_000, 271_001, 0, 1_000)), 127_400_400);
    // 50000 x 500 + 50000 x 50 + 1 x 625 + 10 x 2500
    check(&used("claude-haiku-5-5", usage(50_000, 50_000, 1, 10)), 27_525_625);
}

#[test]
fn p10_prices_rise_on_their_day() {
    let on = |model, time: &str| Consumption {
        at_ms: at(time),
        ..used(model, usage(1_000, 10, 0, 100))
    };
    // 1000 x 2000 + 10 x 100 + 100 x 10000, and twice that
    check(&on("gemini-4-argon", "2026-11-30T23:59:59.999Z"), 3_001_000);
    check(&on("gemini-4-argon", "2026-12-01T00:00:00Z"), 6_002_000);
    // 1000 x 750 + 10 x 75 + 100 x 3750, and twice that
    check(&on("gemini-3.8-flash", "2026-12-31T23:59:59.999Z"), 1_125_750);
    check(&on("gemini-3.8-flash", "2027-01-01T00:00:00Z"), 2_251_500);
    // 1000 x 680 + 10 x 70 + 100 x 2090; 1000 x 1360 + 10 x 140 + 100 x 4180; 1000 x 700 + 10 x 70 + 100 x 2100
    check(&on("mistral-large-4", "2026-10-01T00:00:00Z"), 889_700);
    check(&on("mistral-large-4", "2026-10-20T00:00:00Z"), 1_779_400);
    check(&on("mistral-large-4", "2026-10-29T00:00:00Z"), 910_700);
    let cost = table().cost(&on("gemini-4-argon", "2026-12-05T00:00:00Z"));
    assert_eq!(cost.rate.id, "table:gemini-4-argon@2026-12-01>0");
    assert_eq!(cost.rate.date, "2026-11-20");
    assert!(cost.rate.source.contains("ai.google.dev"), "{cost:?}");
}

#[test]
fn p10_service_tier_and_region_multiply_and_cache_reads_may_have_their_own_factor() {
    let base = used("gpt-6-astra", usage(1_000, 0, 0, 0));
    // 1000 x 10000, x 2, x 1.1
    check(&Consumption { service: Some("default"), ..base }, 10_000_000);
    check(&Consumption { service: Some("priority"), region: Some("us"), ..base }, 22_000_000);
    // (1000 x 2000 + 10 x 12000) x 0.5 + 1000 x 200
    let flex = used("gemini-3.1-pro-preview", usage(1_000, 1_000, 0, 10));
    check(&Consumption { service: Some("flex"), ..flex }, 1_260_000);
    // (3 x 150 + 1 x 600 + 1 x 75) x 5/3
    let third = used("gpt-4o-mini", usage(3, 1, 0, 1));
    check(&Consumption { service: Some("priority"), ..third }, 1_875);
    // A tier that nobody has heard of counts like the dearest that is known: 1000 x 10000 x 6
    let cost = table().cost(&Consumption { service: Some("warp"), ..base });
    assert_eq!((cost.nano_usd, cost.certainty), (Some(60_000_000), Certainty::Estimated));
}

#[test]
fn p10_a_sum_is_rounded_up_once() {
    let flex =
        |read| Consumption { service: Some("flex"), ..used("gpt-5.4-mini", usage(0, read, 0, 0)) };
    // 75 x 0.5 is 37.5; twice as much is 75, not 76
    check(&flex(1), 38);
    check(&flex(2), 75);
}

#[test]
fn p10_reasoning_and_sound_are_parts_of_what_they_are_told_with() {
    // Output includes reasoning: 100 x 10000
    let thinks = Usage { output_reasoning: Some(60), ..usage(0, 0, 0, 100) };
    check(&used("gemini-4-argon", thinks), 1_000_000);
    // A server that tells reasoning beside the output: 60 x 10000
    let beside = Usage { output_reasoning: Some(60), ..usage(0, 0, 0, 10) };
    check(&used("gemini-4-argon", beside), 600_000);
    // 100 x 300 + 900 x 1000
    let hears = Consumption { audio_input: 900, ..used("gemini-2.5-flash", usage(1_000, 0, 0, 0)) };
    check(&hears, 930_000);
}

#[test]
fn p10_no_usage_is_no_zero() {
    let cost = table().cost(&used("claude-haiku-4-5", Usage::default()));
    assert_eq!((cost.nano_usd, cost.certainty), (None, Certainty::Unknown));
    check(&used("claude-haiku-4-5", usage(0, 0, 0, 0)), 0);
    let half = Usage { input_uncached: None, ..usage(0, 0, 0, 10) };
    let cost = table().cost(&used("claude-haiku-4-5", half));
    assert_eq!((cost.nano_usd, cost.certainty), (Some(50_000), Certainty::Estimated));
    let guess = Consumption { estimated: true, ..used("claude-haiku-4-5", usage(1, 0, 0, 1)) };
    assert_eq!(table().cost(&guess).certainty, Certainty::Estimated);
    // An embedding has no output: 1000 x 20
    let embedded = Usage { input_uncached: Some(1_000), ..Usage::default() };
    check(&used("text-embedding-3-small", embedded), 20_000);
}

#[test]
fn p10_a_model_without_a_price_is_never_free() {
    let unheard = used("acme/unheard-of-1", usage(1_000, 0, 0, 1_000));
    let cost = table().cost(&unheard);
    assert_eq!(cost.certainty, Certainty::Unknown);
    assert_eq!(cost.rate.id, "ceiling:table");
    // The dearest in the table: 1000 x 20000 + 1000 x 75000
    assert_eq!(cost.nano_usd, Some(95_000_000));
    let (own, _) = with("ceiling = { input = 3, output = \"4.5\" }").expect("good");
    // 1000 x 3000 + 1000 x 4500
    assert_eq!(own.cost(&unheard).nano_usd, Some(7_500_000));
    let ask = Ask { model: "unheard-of-1", input_tokens: 10, output_max: 10, ..Ask::default() };
    assert!(table().upper_bound(&ask).is_ok_and(|cost| cost.nano_usd > Some(0)));
    let (strict, _) = with("unknown = \"deny\"").expect("good");
    let told = strict.upper_bound(&ask).expect_err("no price").to_string();
    assert!(told.contains("unheard-of-1") && told.contains("prices.models"), "{told}");
    assert!(strict.cost(&unheard).nano_usd > Some(0));
}

#[test]
fn p10_what_somebody_else_sells_is_estimated() {
    let table = table();
    let resold = used("us.anthropic.claude-haiku-4-5-20251001-v1:0", usage(1_000, 0, 0, 0));
    let cost = table.cost(&resold);
    assert_eq!((cost.nano_usd, cost.certainty), (Some(1_000_000), Certainty::Estimated));
    let (own, _) = with(
        "[models.\"bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0\"]\ninput = 1.1\noutput = 5.5",
    )
    .expect("good");
    let cost = own.cost(&Consumption { provider: Some("bedrock"), ..resold });
    assert_eq!((cost.nano_usd, cost.certainty), (Some(1_100_000), Certainty::Exact));
    assert_eq!(own.cost(&resold).nano_usd, Some(1_000_000));
}

#[test]
fn p10_a_configuration_goes_over_the_table() {
    let rules = "
        [models.'claude-haiku-4-5']
        input = 2
        output = '6.5'
        tiers = [{ above = 1000, input = 4, output = 13 }]
        [models.'gpt-4.1']
        factor = 0.8
        [models.house]
        input = 0
        output = 0
    ";
    let (table, warnings) = with(rules).expect("good");
    assert_eq!(warnings, []);
    let nano = |model, usage| {
        let cost = table.cost(&used(model, usage));
        assert_eq!(cost.certainty, Certainty::Exact, "{cost:?}");
        cost.nano_usd
    };
    // Also for the dated name: 1000 x 2000 + 10 x 6500; reads as input, writes for an hour twice.
    assert_eq!(nano("claude-haiku-4-5-20251001", usage(1_000, 0, 0, 10)), Some(2_065_000));
    assert_eq!(nano("claude-haiku-4-5", usage(0, 10, 0, 0)), Some(20_000));
    let hour = Usage { cache_write_1h: Some(10), ..usage(0, 0, 0, 0) };
    assert_eq!(nano("claude-haiku-4-5", hour), Some(40_000));
    // 1001 x 4000
    assert_eq!(nano("claude-haiku-4-5", usage(1_001, 0, 0, 0)), Some(4_004_000));
    // 1000 x 2000 x 0.8 + 10 x 500 x 0.8
    assert_eq!(nano("gpt-4.1", usage(1_000, 10, 0, 0)), Some(1_604_000));
    // What is said to be free is free.
    assert_eq!(nano("house", usage(1_000, 0, 0, 1_000)), Some(0));
}

#[test]
fn p10_a_price_per_token_or_thousand_is_found() {
    for (rules, key, told) in [
        ("[models.m]\ninput = 0.000003\noutput = 15", "models.m.input", "write 3"),
        ("[models.m]\ninput = 3\noutput = 15000000", "models.m.output", "more than anything"),
        ("[models.m]\ninput = 3", "models.m.output", "missing"),
        ("[models.m]\noutput = 3", "models.m.input", "missing"),
        ("[models.m]", "models.m.input", "missing"),
        ("[models.m]\nfactor = 0.5", "models.m.factor", "no such model"),
        ("[models.o3]\nfactor = 0.5\ninput = 1", "models.o3.factor", "not both"),
        (
            "[models.m]\ninput = 1\noutput = 1\ntiers = [{ input = 2, output = 2 }]",
            "models.m.tiers",
            "in order",
        ),
        (
            "[models.m]\ninput = 1\noutput = 1\nperiods = [{ tiers = [] }]",
            "models.m.periods",
            "not both",
        ),
        ("[models.m]\nperiods = [{ tiers = [] }]", "models.m", "no rates"),
        ("[ceiling]\ninput = 1", "ceiling.output", "missing"),
    ] {
        let error = with(rules).expect_err(rules);
        assert_eq!(error.key, key, "{error}");
        assert!(error.problem.contains(told), "{error}");
    }
    // 0.03 is the price of a thousand tokens of a model that costs 2 a million.
    let (_, warnings) = with("[models.'gpt-4.1']\ninput = 0.03\noutput = 0.06").expect("possible");
    let keys: Vec<_> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert!(keys.contains(&"models.gpt-4.1.input"), "{warnings:?}");
    let words = "[models.m]\ninput = \"three\"\noutput = 1";
    let told = toml::from_str::<PriceRules>(words).expect_err("no number").to_string();
    assert!(told.contains("USD per million tokens") && told.contains("line 2"), "{told}");
}

#[test]
fn the_table_is_in_order() {
    let table = table();
    assert!(table.listed.len() >= 47);
    for (name, price) in &table.listed {
        assert!(price.source.starts_with("https://"), "{name}: {}", price.source);
        for tier in price.periods.iter().flat_map(|period| &period.tiers) {
            let rates = tier.rates;
            assert!(rates.cache_read <= rates.input, "{name}");
            assert!(rates.cache_write >= rates.input, "{name}");
            assert!(rates.cache_write_1h >= rates.cache_write, "{name}");
            assert!(rates.input > Rate::from_pico(0), "{name}");
        }
        assert!(!price.is_anthropic || name.starts_with("claude"), "{name}");
    }
    assert_eq!(table.output_max(None, "claude-haiku-4-5-20251001"), Some(64_000));
}

/// Any model of the table, or one that is not in it.
fn models() -> impl Strategy<Value = String> {
    let mut names: Vec<String> = table().listed.keys().cloned().collect();
    names.push("unheard-of".to_owned());
    prop::sample::select(names)
}

fn services() -> impl Strategy<Value = Option<&'static str>> {
    let names = ["default", "batch", "flex", "priority", "ultrafast", "fast", "warp"];
    prop::option::of(prop::sample::select(names.to_vec()))
}

proptest! {
    #[test]
    fn g9_no_call_costs_more_than_its_bound(
        model in models(),
        service in services(),
        region in prop::option::of(prop::sample::select(vec!["us", "eu", "mars"])),
        at_ms in at("2026-10-01T00:00:00Z")..at("2027-02-01T00:00:00Z"),
        (uncached, read, written, long) in (0..300_000_u64, 0..300_000_u64, 0..300_000_u64, 0..300_000_u64),
        (output, reasoning, audio) in (0..200_000_u64, 0..200_000_u64, 0..400_000_u64),
        spare in 0..400_000_u64,
    ) {
        let table = table();
        let usage = Usage {
            cache_write_1h: Some(long.min(written)),
            output_reasoning: Some(reasoning.min(output)),
            ..usage(uncached, read, written - long.min(written), output)
        };
        let call = Consumption {
            at_ms, service, region, audio_input: audio, audio_output: audio, ..used(&model, usage)
        };
        let ask = Ask {
            model: &model, at_ms, service, region, long_cache: true, audio: true,
            input_tokens: uncached + read + written, output_max: output, ..Ask::default()
        };
        let cost = table.cost(&call).nano_usd.expect("told");
        let bound = table.upper_bound(&ask).expect("priced").nano_usd.expect("a bound");
        prop_assert!(cost <= bound, "{cost} > {bound}");
        let more = Ask { input_tokens: ask.input_tokens + spare, output_max: output + spare, ..ask };
        let more = table.upper_bound(&more).expect("priced").nano_usd.expect("a bound");
        prop_assert!(bound <= more, "{bound} > {more}");
    }

    #[test]
    fn p10_a_bill_is_the_exact_sum_rounded_up(
        uncached in 0..300_000_u64, read in 0..1_000_000_u64, output in 0..200_000_u64,
    ) {
        // gpt-5.5 in flex: pico-USD halved are whole, so the exact sum can be told without fractions.
        let large = uncached + read > 272_000;
        let (input, cached, out) = if large { (10, 1, 45) } else { (5, 0, 30) };
        let cached = if large { cached * 1_000_000 } else { 500_000 };
        let pico = (uncached * input * 1_000_000 + read * cached + output * out * 1_000_000) / 2;
        let call = Consumption { service: Some("flex"), ..used("gpt-5.5", usage(uncached, read, 0, output)) };
        prop_assert_eq!(table().cost(&call).nano_usd, Some(pico.div_ceil(1_000)));
    }
}
