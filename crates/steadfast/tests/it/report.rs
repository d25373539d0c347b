//! The report's figures, checked against a computation that shares nothing with the tools (SCOPE C9).

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{events, example, run, text};

#[derive(Debug, Default)]
struct Expected {
    rows: u64,
    missing: u64,
    invalid: u64,
    duplicate: u64,
    orders: u64,
    cents: u64,
    regions: BTreeMap<String, (u64, u64)>,
    months: BTreeMap<String, u64>,
}

fn compute(data: &str) -> Expected {
    let mut expected = Expected::default();
    let mut seen = BTreeSet::new();
    for line in data.lines().skip(1) {
        expected.rows += 1;
        let fields: Vec<&str> = line.split(',').collect();
        if fields[4].is_empty() || fields[5].is_empty() {
            expected.missing += 1;
            continue;
        }
        let quantity: i64 = fields[4].parse().expect("a number");
        let price: i64 = fields[5].parse().expect("a number");
        if quantity <= 0 || price <= 0 {
            expected.invalid += 1;
        } else if !seen.insert(fields[0].to_owned()) {
            expected.duplicate += 1;
        } else {
            let cents = u64::try_from(quantity * price).expect("positive");
            expected.orders += 1;
            expected.cents += cents;
            let region = expected.regions.entry(fields[2].to_owned()).or_default();
            region.0 += 1;
            region.1 += cents;
            *expected.months.entry(fields[1][..7].to_owned()).or_default() += cents;
        }
    }
    expected
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[test]
fn c9_the_report_holds_the_figures_of_an_independent_computation() {
    let (_temporary, folder) = example("report");
    let done = run(&folder, &["run", "report"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let data = std::fs::read_to_string(folder.join("data/sales.csv")).expect("generated");
    let report = std::fs::read_to_string(folder.join("work/report.md")).expect("written");
    let expected = compute(&data);
    assert!(expected.rows >= 10_000);
    assert!(expected.missing > 0 && expected.invalid > 0 && expected.duplicate > 0);
    assert_eq!(expected.regions.len(), 4);
    let mut figures = vec![
        format!("Total revenue: **{}** from {} orders", money(expected.cents), expected.orders),
        format!("Of {} rows, {} were kept", expected.rows, expected.orders),
        format!(
            "{} with missing values, {} with impossible values and {} duplicates",
            expected.missing, expected.invalid, expected.duplicate
        ),
    ];
    for (region, (orders, cents)) in &expected.regions {
        figures.push(format!("| {region} | {orders} | {} |", money(*cents)));
    }
    let best = expected.months.iter().max_by_key(|(_, cents)| **cents).expect("months");
    figures.push(format!("Best month: {} with {}.", best.0, money(*best.1)));
    for figure in figures {
        assert!(report.contains(&figure), "`{figure}` is not in the report:\n{report}");
    }
    let stages = events(&folder).iter().filter(|row| row.kind == "progressed").count();
    assert_eq!(stages, 4, "collect, clean, analyse, report");
}
