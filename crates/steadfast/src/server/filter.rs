//! Which runs a list shows: the same words in the API's query, the console's address and its form.

use serde::Deserialize;
use steadfast_runtime::{Problem as RunProblem, Status};
use steadfast_store::{RunFilter, RunId, Timestamp};

use super::Problem;

/// Most rows on a page.
pub(super) const LIMIT_MAX: usize = 500;

/// Most words that a search looks for: each takes a look into the index.
const WORDS_MAX: usize = 16;

/// Which runs a list shows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// One state, or several with commas between.
    pub(crate) state: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) tag: Option<String>,
    /// The run that started them.
    pub(crate) parent: Option<String>,
    /// `any`, or one problem, or several with commas between.
    pub(crate) problem: Option<String>,
    /// Created at or after this time.
    pub(crate) since: Option<String>,
    /// Created before this time.
    pub(crate) until: Option<String>,
    /// Words that the input holds, all of them.
    pub(crate) text: Option<String>,
    pub(crate) before: Option<String>,
    pub(crate) limit: Option<usize>,
}

/// What a field holds. A form sends fields left blank as empty: they filter nothing.
fn given(field: Option<&String>) -> Option<&str> {
    field.map(|text| text.trim()).filter(|text| !text.is_empty())
}

impl ListQuery {
    /// The store's filter; `now` is what times are reckoned back from.
    ///
    /// # Errors
    /// A field does not hold what it should.
    pub(crate) fn filter(&self, now: Timestamp) -> Result<RunFilter, Problem> {
        let owned = |field: &Option<String>| given(field.as_ref()).map(str::to_owned);
        let (problems, any_problem) = self.problems()?;
        let text: Vec<String> = given(self.text.as_ref())
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if text.len() > WORDS_MAX {
            return Err(Problem::bad_query(format!(
                "`text` has {} words; a search looks for {WORDS_MAX} at most",
                text.len()
            )));
        }
        Ok(RunFilter {
            tenant: owned(&self.tenant),
            agent: owned(&self.agent),
            session: owned(&self.session),
            tag: owned(&self.tag),
            parent: run_of("parent", given(self.parent.as_ref()), "give the id of a run")?,
            states: self.states()?,
            problems,
            any_problem,
            since: time_of("since", given(self.since.as_ref()), now)?,
            until: time_of("until", given(self.until.as_ref()), now)?,
            text,
            before: run_of("before", given(self.before.as_ref()), "give the `next` of a page")?,
            limit: check_limit(self.limit)?,
        })
    }

    /// Whether anything but the page narrows the list.
    pub(crate) fn is_narrowed(&self) -> bool {
        self.narrowing().iter().any(|(_, field)| given(*field).is_some())
    }

    /// Every field that narrows the list, by its name, in the order of the form.
    pub(crate) fn narrowing(&self) -> [(&'static str, Option<&String>); 10] {
        [
            ("state", self.state.as_ref()),
            ("agent", self.agent.as_ref()),
            ("tenant", self.tenant.as_ref()),
            ("session", self.session.as_ref()),
            ("tag", self.tag.as_ref()),
            ("parent", self.parent.as_ref()),
            ("problem", self.problem.as_ref()),
            ("since", self.since.as_ref()),
            ("until", self.until.as_ref()),
            ("text", self.text.as_ref()),
        ]
    }

    fn states(&self) -> Result<Vec<String>, Problem> {
        let words = given(self.state.as_ref()).into_iter().flat_map(|states| states.split(','));
        let states = words.map(|word| {
            let status = Status::parse(word).ok_or_else(|| {
                let known = Status::ALL.map(Status::as_str).join(", ");
                Problem::bad_query(format!("`state` is `{word}`; the states are: {known}"))
            })?;
            Ok(status.as_str().to_owned())
        });
        states.collect()
    }

    fn problems(&self) -> Result<(Vec<String>, bool), Problem> {
        let Some(words) = given(self.problem.as_ref()) else { return Ok((Vec::new(), false)) };
        if words == "any" {
            return Ok((Vec::new(), true));
        }
        let problems = words.split(',').map(|word| {
            let problem = RunProblem::parse(word).ok_or_else(|| {
                let known = RunProblem::ALL.map(RunProblem::as_str).join(", ");
                Problem::bad_query(format!("`problem` is `{word}`; it is `any` or one of: {known}"))
            })?;
            Ok::<_, Problem>(problem.as_str().to_owned())
        });
        Ok((problems.collect::<Result<_, _>>()?, false))
    }
}

fn run_of(field: &str, text: Option<&str>, hint: &str) -> Result<Option<RunId>, Problem> {
    let wrong = |text| Problem::bad_query(format!("`{field}` is `{text}`; {hint}"));
    text.map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

/// A time as people and programs write it: RFC 3339, milliseconds since 1970, or how long ago (`2h`).
fn time_of(field: &str, text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(at) = text.parse::<i64>() {
        return Ok(Some(Timestamp(at)));
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(Timestamp(at.as_millisecond())));
    }
    if let Ok(ago) = humantime_serde::re::humantime::parse_duration(text) {
        let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Some(Timestamp(now.0.saturating_sub(ago_ms))));
    }
    Err(Problem::bad_query(format!(
        "`{field}` is `{text}`; give a time as `2026-01-31T12:00:00Z`, as milliseconds since 1970, or \
         how long ago it was, as `2h`"
    )))
}

/// A page's size; 0 leaves it to the store.
pub(super) fn check_limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        Some(limit) if !(1..=LIMIT_MAX).contains(&limit) => {
            Err(Problem::bad_query(format!("`limit` is {limit}; it must be 1 to {LIMIT_MAX}")))
        }
        limit => Ok(limit.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn filter(query: &ListQuery) -> RunFilter {
        match query.filter(NOW) {
            Ok(filter) => filter,
            Err(problem) => panic!("{}", problem.detail),
        }
    }

    #[test]
    fn a_time_is_a_date_a_number_or_how_long_ago() {
        let since = |text: &str| {
            filter(&ListQuery { since: Some(text.to_owned()), ..ListQuery::default() }).since
        };
        assert_eq!(since("2h"), Some(Timestamp(NOW.0 - 7_200_000)));
        assert_eq!(since("1700000000000"), Some(Timestamp(1_700_000_000_000)));
        assert_eq!(since("1970-01-01T00:00:01Z"), Some(Timestamp(1000)));
        assert_eq!(since(" "), None, "a field left blank filters nothing");
        let wrong = ListQuery { until: Some("yesterday".to_owned()), ..ListQuery::default() };
        let detail = wrong.filter(NOW).expect_err("no time").detail;
        assert!(detail.contains("`until`") && detail.contains("2h"), "{detail}");
    }

    #[test]
    fn problems_are_any_or_named_and_a_wrong_one_is_told_the_right_ones() {
        let of = |text: &str| ListQuery { problem: Some(text.to_owned()), ..ListQuery::default() };
        assert!(filter(&of("any")).any_problem);
        assert_eq!(filter(&of("stuck,costly")).problems, ["stuck", "costly"]);
        let detail = of("stcuk").filter(NOW).expect_err("no such problem").detail;
        assert!(detail.contains("stuck") && detail.contains("any"), "{detail}");
    }

    #[test]
    fn a_search_has_words_and_not_too_many_of_them() {
        let of = |text: String| ListQuery { text: Some(text), ..ListQuery::default() };
        assert_eq!(filter(&of("  late  invoice ".to_owned())).text, ["late", "invoice"]);
        assert!(of("word ".repeat(WORDS_MAX + 1)).filter(NOW).is_err());
    }
}
