//! `[[budget]]`, `[ledger]` and `[prices]`: how much may be used, and what it costs.

use jiff::tz::TimeZone;
use steadfast_runtime::ledger::{Terms, check_budgets};
use steadfast_runtime::prices::{PriceTable, PriceWarning};

use super::{Config, ConfigError};

impl Config {
    /// Checks the budgets and the prices.
    pub(super) fn check_money(&self) -> Result<(), ConfigError> {
        check_budgets(&self.budget).map_err(|error| ConfigError::Unusable {
            place: format!("budget.{}.{}", error.rule + 1, error.key),
            problem: error.problem,
        })?;
        self.ledger_zone()?;
        self.price_table().map(drop)
    }

    /// Where the days, weeks and months of budgets begin.
    pub(crate) fn ledger_zone(&self) -> Result<TimeZone, ConfigError> {
        let name = &self.ledger.timezone;
        TimeZone::get(name).map_err(|_| ConfigError::Unusable {
            place: "ledger.timezone".to_owned(),
            problem: format!(
                "there is no time zone `{name}`; write one such as `UTC` or `Europe/Zurich`"
            ),
        })
    }

    /// What calls of models cost, and the budgets that they fall under.
    pub(crate) fn terms(&self) -> Result<Terms, ConfigError> {
        let (prices, _) = self.price_table()?;
        let (budgets, zone) = (self.budget.clone(), self.ledger_zone()?);
        let answer_max = self.ledger.answer_max;
        Ok(Terms { prices, budgets, zone, answer_max })
    }

    /// The prices in force, and which of the configured ones are hardly meant.
    pub(crate) fn price_table(&self) -> Result<(PriceTable, Vec<PriceWarning>), ConfigError> {
        let table = PriceTable::built_in().and_then(|table| table.with(&self.prices));
        table.map_err(|error| ConfigError::Unusable {
            place: format!("prices.{}", error.key),
            problem: error.problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use steadfast_runtime::prices::{Ask, OnUnknown};

    use super::*;

    const GOOD: &str = "[ledger]\ntimezone = \"Europe/Zurich\"\n\
                        [[budget]]\nscope = \"tenant\"\nwindow = \"day\"\ntokens = 100000\n\
                        [[budget]]\nscope = \"session\"\nwindow = \"call\"\noperations = [\"planning\"]\n\
                        tokens = 1000\nusd = 0.5\n\
                        [prices]\nunknown = \"deny\"\n\
                        [prices.models.\"gpt-4.1\"]\ninput = 1.8\noutput = \"7.2\"\n";

    fn parse(text: String) -> Result<Config, ConfigError> {
        Config::parse(Path::new("steadfast.toml"), text)
    }

    #[test]
    fn p7_budgets_and_prices_are_read() {
        let config = parse(GOOD.to_owned()).expect("good");
        assert_eq!(config.budget.len(), 2);
        assert_eq!(config.prices.unknown, OnUnknown::Deny);
        assert_eq!(config.ledger_zone().expect("a zone").iana_name(), Some("Europe/Zurich"));
        let (table, warnings) = config.price_table().expect("good");
        assert_eq!(warnings, []);
        let ask = Ask { model: "gpt-4.1", input_tokens: 1_000, output_max: 10, ..Ask::default() };
        // 1000 x 1800 + 10 x 7200
        let bound = table.upper_bound(&ask).expect("priced");
        assert_eq!(bound.nano_usd, Some(1_872_000));
        let empty = parse(String::new()).expect("good");
        assert!(empty.budget.is_empty());
        assert_eq!(empty.prices.unknown, OnUnknown::Ceiling);
        assert_eq!(empty.ledger_zone().expect("a zone").iana_name(), Some("UTC"));
    }

    #[test]
    fn p7_what_is_wrong_with_a_budget_or_a_price_has_its_line() {
        for (written, wrong, told) in [
            ("Europe/Zurich", "Zurich", "line 2: `ledger.timezone`"),
            ("tokens = 100000", "", "line 3: `budget.1.tokens`: it limits nothing"),
            ("operations = [", "soft = [0]\noperations = [", "line 10: `budget.2.soft`"),
            ("window = \"day\"", "window = \"year\"", "`call`, `whole`, `hour`, `day`, `week`"),
            ("tokens = 1000\n", "token = 1000\n", "did you mean `tokens`?"),
            ("usd = 0.5", "usd = -1", "`-1` is no amount in USD"),
            ("usd = 0.5", "usd = 0.1234567891", "more than nine decimals"),
            ("input = 1.8", "input = 0.0000018", "line 16"),
            ("input = 1.8", "input = 0.000002", "line 16: `prices.models.gpt-4.1.input`"),
            ("output = \"7.2\"\n", "", "line 15: `prices.models.gpt-4.1.output`"),
            ("\"deny\"", "\"free\"", "`ceiling`"),
        ] {
            let message = parse(GOOD.replace(written, wrong)).expect_err(wrong).to_string();
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    fn p10_a_price_that_is_hardly_meant_is_told() {
        let config = parse(GOOD.replace("input = 1.8", "input = 0.002")).expect("possible");
        let (_, warnings) = config.price_table().expect("possible");
        let told = warnings.first().expect("a warning").to_string();
        assert!(told.starts_with("`prices.models.gpt-4.1.input`: it is 0.002 USD"), "{told}");
    }
}
