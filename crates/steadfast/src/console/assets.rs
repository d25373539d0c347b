//! The one script, the one style sheet and the icon, in the binary.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The script; it replaces fragments as they change.
pub(super) async fn script() -> Response {
    let kind = "text/javascript; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")],
        include_str!("../../assets/console.js"),
    )
        .into_response()
}

/// The style sheet, light and dark.
pub(super) async fn style() -> Response {
    let kind = "text/css; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")],
        include_str!("../../assets/console.css"),
    )
        .into_response()
}

/// The icon of a tab.
pub(super) async fn icon() -> Response {
    let kind = "image/svg+xml";
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")],
        include_str!("../../assets/icon.svg"),
    )
        .into_response()
}
