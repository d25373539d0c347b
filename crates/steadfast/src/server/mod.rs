//! temp
pub(crate) struct ServerState;
impl ServerState {
    pub(crate) fn new(_: steadfast_runtime::Runtime, _: bool) -> Self {
        Self
    }
}
pub(crate) fn router(_: ServerState) -> axum::Router {
    axum::Router::new()
}
