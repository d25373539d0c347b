//! The list of runs.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Html;
use steadfast_runtime::{Problem as RunProblem, RunView, Status};
use steadfast_store::Timestamp;

use super::time::When;
use super::{Frame, render};
use crate::server::{ListQuery, Problem, QueryOf, ServerState};

/// Runs counted per state at most: a list over millions of runs stays quick.
const COUNT_CAP: u64 = 1000;

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    frame: Frame,
    live: String,
    filter: FilterView,
    content: String,
}

/// What changes while one looks: chips and rows.
#[derive(Template)]
#[template(path = "runs.html")]
struct RunsFragment {
    chips: Vec<Chip>,
    rows: Vec<Row>,
    filtered: bool,
    paged: bool,
    newest: String,
    next: Option<String>,
    agent: String,
}

struct FilterView {
    state: String,
    agent: String,
    tenant: String,
    session: String,
    tag: String,
    since: String,
    until: String,
    text: String,
    problem: String,
    /// The parent that an address asks for; there is no field for it.
    parent: String,
    agents: Vec<String>,
    problems: [&'static str; RunProblem::ALL.len()],
}

struct Chip {
    label: &'static str,
    count: Option<String>,
    href: String,
    current: bool,
}

struct Row {
    run: RunView,
    id: String,
    short_id: String,
    created: When,
    updated: When,
    /// What is wrong with it: the word, and what that means.
    problem: Option<(String, &'static str)>,
}

pub(super) async fn page(
    State(state): State<ServerState>,
    QueryOf(query): QueryOf<ListQuery>,
    RawQuery(raw): RawQuery,
) -> Result<Html<String>, Problem> {
    let content = fragment(&state, &query).await?;
    let raw = raw.unwrap_or_default();
    let live = if raw.is_empty() { "/console/live".into() } else { format!("/console/live?{raw}") };
    let shown = |field: &Option<String>| field.clone().unwrap_or_default();
    let filter = FilterView {
        state: shown(&query.state),
        agent: shown(&query.agent),
        tenant: shown(&query.tenant),
        session: shown(&query.session),
        tag: shown(&query.tag),
        since: shown(&query.since),
        until: shown(&query.until),
        text: shown(&query.text),
        problem: shown(&query.problem),
        parent: shown(&query.parent),
        agents: state.runtime.catalog().agent_names(),
        problems: RunProblem::ALL.map(RunProblem::as_str),
    };
    let page = ListPage { frame: Frame::of(&state), live, filter, content };
    Ok(Html(render(&page)?))
}

/// The part that changes, as HTML.
pub(super) async fn fragment(state: &ServerState, query: &ListQuery) -> Result<String, Problem> {
    let counts = state.runtime.count_by_state(COUNT_CAP).await?;
    let now = state.runtime.store().now();
    let page = state.runtime.list(query.filter(now)?).await?;
    let current = query.state.as_deref().unwrap_or_default();
    let mut chips = vec![chip("all", None, query, current.is_empty(), "")];
    for status in Status::ALL {
        let word = status.as_str();
        let count = counts.iter().find(|(state, _)| state == word).map_or(0, |(_, count)| *count);
        chips.push(chip(word, Some(capped(count)), query, current == word, word));
    }
    let given = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    let fragment = RunsFragment {
        chips,
        rows: page.runs.into_iter().map(|run| row(run, now)).collect(),
        filtered: query.is_narrowed(),
        paged: given(&query.before),
        newest: link(query, query.state.as_deref(), None),
        next: page.next.map(|run| link(query, query.state.as_deref(), Some(&run.to_string()))),
        agent: state
            .runtime
            .catalog()
            .agent_names()
            .into_iter()
            .next()
            .unwrap_or_else(|| "AGENT".into()),
    };
    render(&fragment)
}

fn capped(count: u64) -> String {
    if count >= COUNT_CAP { format!("{COUNT_CAP}+") } else { count.to_string() }
}

fn row(run: RunView, now: Timestamp) -> Row {
    let id = run.id.to_string();
    // The end of a UUID of version 7 is the random part: the beginning is alike for a whole day.
    let short_id = id.rsplit('-').next().unwrap_or(&id).to_owned();
    let created = When::new(run.created_at, now);
    let updated = When::new(run.updated_at, now);
    let meaning = |word: &str| RunProblem::parse(word).map_or("", RunProblem::meaning);
    let problem = run.problem.clone().map(|word| (word.clone(), meaning(&word)));
    Row { run, id, short_id, created, updated, problem }
}

fn chip(
    label: &'static str,
    count: Option<String>,
    query: &ListQuery,
    current: bool,
    state: &str,
) -> Chip {
    Chip { label, count, href: link(query, Some(state), None), current }
}

/// The list's address with a state and a cursor, the other filters kept.
fn link(query: &ListQuery, state: Option<&str>, before: Option<&str>) -> String {
    let limit = query.limit.map(|limit| limit.to_string());
    let narrowing = query.narrowing().into_iter().map(|(name, value)| match name {
        "state" => (name, state),
        _ => (name, value.map(String::as_str)),
    });
    let fields = narrowing.chain([("limit", limit.as_deref()), ("before", before)]);
    let mut address = String::from("/console");
    let mut separator = '?';
    for (name, value) in fields {
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        address.push(separator);
        address.push_str(name);
        address.push('=');
        escape(value, &mut address);
        separator = '&';
    }
    address
}

/// Percent-encodes everything that is not unreserved (RFC 3986, section 2.3).
pub(super) fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_other_filters_and_escapes_them() {
        let query =
            ListQuery { agent: Some("a&b c".into()), limit: Some(5), ..ListQuery::default() };
        assert_eq!(
            link(&query, Some("failed"), None),
            "/console?state=failed&agent=a%26b%20c&limit=5"
        );
        assert_eq!(link(&ListQuery::default(), None, None), "/console");
    }

    #[test]
    fn a_count_at_its_cap_says_that_there_are_more() {
        assert_eq!([0, 999, 1000].map(capped), ["0", "999", "1000+"]);
    }
}
