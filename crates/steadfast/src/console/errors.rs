//! What a code means and what to do about it: where the `type` of every problem leads.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Html;

use super::{Frame, render};
use crate::server::{Problem, ServerState};

/// A code and its page, as text.
type Page = (&'static str, &'static str);

macro_rules! pages {
    ($($code:literal)*) => {
        [$(($code, include_str!(concat!("../../../../docs/errors/", $code, ".md")))),*]
    };
}

/// Every page of `docs/errors`, sorted.
const PAGES: [Page; 33] = pages! {
    "body_too_large" "contended" "cross_site" "damaged_log" "foreign_host" "invalid_body"
    "invalid_input" "invalid_key" "invalid_request" "key_conflict" "key_disabled" "key_expired" "key_revoked" "key_rotated" "misconfigured" "no_randomness" "not_asking" "not_listening"
    "page_failed"
    "shutting_down" "store_failed" "store_unavailable" "too_large" "unknown_agent" "unknown_fact" "unknown_guard" "unknown_key" "unknown_route"
    "unknown_run" "unknown_schedule" "unsupported_media_type"
    "wrong_method" "wrong_state"
};

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    code: &'static str,
    paragraphs: Vec<Paragraph>,
}

/// A heading or a paragraph of the page.
struct Paragraph {
    heading: bool,
    text: String,
}

pub(super) async fn page(
    State(state): State<ServerState>,
    Path(code): Path<String>,
) -> Result<Html<String>, Problem> {
    let found = PAGES.into_iter().find(|(known, _)| *known == code);
    let (code, text) = found.ok_or_else(|| Problem::unknown_code(&code))?;
    // The first block is the title, which is the code.
    let paragraphs = text.split("\n\n").skip(1).map(paragraph).collect();
    let page = ErrorPage { frame: Frame::of(&state), code, paragraphs };
    Ok(Html(render(&page)?))
}

fn paragraph(block: &str) -> Paragraph {
    match block.strip_prefix("## ") {
        Some(heading) => Paragraph { heading: true, text: heading.trim().to_owned() },
        None => Paragraph { heading: false, text: block.trim().replace('\n', " ") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_what_happened_and_what_to_do() {
        for (code, text) in PAGES {
            assert!(text.starts_with(&format!("# {code}\n\n")), "{code}");
            let blocks: Vec<_> = text.split("\n\n").skip(1).map(paragraph).collect();
            let headings = blocks.iter().filter(|block| block.heading).map(|block| &block.text);
            assert_eq!(headings.collect::<Vec<_>>(), ["What happened", "What to do"], "{code}");
        }
    }
}
