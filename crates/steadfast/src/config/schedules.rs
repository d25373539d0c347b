//! `[schedules.NAME]`: what is submitted at which times.

use steadfast_runtime::{Cron, CronError, Schedule, SubmitRun};

use super::place::nearest;
use super::sections::ScheduleSection;
use super::{Config, ConfigError};

/// The input of a run if none is given, as on the command line.
const DEFAULT_INPUT: &str = "Begin.";

impl Config {
    /// The schedules, each checked.
    pub(crate) fn timetable(&self) -> Result<Vec<Schedule>, ConfigError> {
        self.schedules.iter().map(|(name, section)| self.schedule(name, section)).collect()
    }

    fn schedule(&self, name: &str, section: &ScheduleSection) -> Result<Schedule, ConfigError> {
        let wrong = |key: &str, problem: String| {
            Err(ConfigError::Unusable { place: format!("schedules.{name}.{key}"), problem })
        };
        if !self.agents.contains_key(&section.agent) {
            let known = || self.agents.keys().map(String::as_str);
            let meant = nearest(&section.agent, known());
            let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            let agents = known().collect::<Vec<_>>().join(", ");
            let agent = &section.agent;
            let problem = format!("there is no agent `{agent}`; there are: {agents}{meant}");
            return wrong("agent", problem);
        }
        let timezone = section.timezone.clone().unwrap_or_else(|| "UTC".to_owned());
        let times = match Cron::parse(&section.cron, &timezone) {
            Ok(times) => times,
            Err(error @ CronError::Expression { .. }) => return wrong("cron", error.to_string()),
            Err(error @ CronError::Zone { .. }) => return wrong("timezone", error.to_string()),
        };
        let input = section.input.as_deref().unwrap_or(DEFAULT_INPUT);
        let mut order = SubmitRun::new(&section.agent, input);
        order.priority = section.priority;
        if let Some(tenant) = &section.tenant {
            order.tenant.clone_from(tenant);
        }
        if let Err(error) = order.check() {
            return wrong("input", error.to_string());
        }
        order.tags.clone_from(&section.tags);
        if let Err(error) = order.check() {
            return wrong("tags", error.to_string());
        }
        Ok(Schedule {
            name: name.to_owned(),
            cron: section.cron.clone(),
            timezone,
            times,
            order,
            catch_up: section.catch_up,
            overlap: section.overlap,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const GOOD: &str = "[agents.report]\nmodel = \"m\"\n[schedules.daily]\n\
                        cron = \"0 6 * * 1-5\"\nagent = \"report\"\ntimezone = \"Europe/Zurich\"\n";

    fn parse(text: String) -> Result<Config, ConfigError> {
        Config::parse(Path::new("steadfast.toml"), text)
    }

    #[test]
    fn a_schedule_has_what_is_written_and_defaults_for_the_rest() {
        let config = parse(GOOD.to_owned()).expect("good");
        let daily = config.timetable().expect("good").remove(0);
        let order = &daily.order;
        let said = (daily.name.as_str(), order.agent.as_str(), order.input.as_str());
        assert_eq!(said, ("daily", "report", "Begin."));
        assert_eq!((order.tenant.as_str(), order.key.as_ref()), ("default", None));
        assert_eq!(order.tags, Vec::<String>::new());
        let tagged = parse(format!("{GOOD}tags = [\"nightly\", \"billing\"]\n")).expect("good");
        let tagged = tagged.timetable().expect("good").remove(0);
        assert_eq!(tagged.order.tags, ["nightly", "billing"]);
    }

    #[test]
    fn what_is_wrong_with_a_schedule_has_its_line_and_an_example() {
        for (written, wrong, told) in [
            ("0 6 * * 1-5", "0 6 * *", "line 4: `schedules.daily.cron`"),
            ("0 6 * * 1-5", "0 6 * * 1-9", "0 6 * * 1-5"),
            ("agent = \"report\"", "agent = \"reprot\"", "did you mean `report`?"),
            ("Europe/Zurich", "Zurich", "line 6: `schedules.daily.timezone`"),
            (
                "agent =",
                "tags = [\"\"]\nagent =",
                "line 5: `schedules.daily.tags`: a tag must have",
            ),
            ("agent =", "catch_up = \"some\"\nagent =", "`none`, `last`, `all`"),
        ] {
            let message = parse(GOOD.replace(written, wrong)).expect_err(wrong).to_string();
            assert!(message.contains(told), "{message}");
        }
    }
}
