//! Talks to a server's management API.

use anyhow::{Context as _, anyhow};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Exit;

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    base: String,
}

/// What a server says when it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    code: String,
}

/// An answer, or a refusal with the exit code that tells it.
pub(super) enum Answer<T> {
    Ok(T),
    Refused(Exit),
}

impl Client {
    pub(super) fn new(server: &str) -> anyhow::Result<Self> {
        steadfast_providers::http::install_tls();
        let http = reqwest::Client::builder().no_proxy().build()?;
        let server = server.trim_end_matches('/').to_owned();
        Ok(Self { http, base: format!("{server}/api/v1"), server })
    }

    /// Where a person can look at a run.
    pub(super) fn console(&self, run: &str) -> String {
        format!("{}/console/runs/{run}", self.server)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Answer<T>> {
        read(self.send(self.request(Method::GET, path)).await?).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Answer<T>> {
        read(self.send(self.request(Method::POST, path).json(body)).await?).await
    }

    /// Opens a stream of server-sent events that begins after the event of that number.
    pub(super) async fn stream(&self, path: &str, after: u64) -> anyhow::Result<Answer<Response>> {
        let mut request = self.request(Method::GET, path).header("accept", "text/event-stream");
        if after > 0 {
            request = request.header("last-event-id", after);
        }
        let response = self.send(request).await?;
        if response.status().is_success() {
            return Ok(Answer::Ok(response));
        }
        Ok(Answer::Refused(refusal(response).await))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| {
            if error.is_connect() {
                anyhow!(
                    "no server answers at {}: start one with `steadfast serve`, or name another \
                     with `--server`",
                    self.base
                )
            } else {
                anyhow!(error.without_url()).context(format!("cannot talk to {}", self.base))
            }
        })
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> anyhow::Result<Answer<T>> {
    if !response.status().is_success() {
        return Ok(Answer::Refused(refusal(response).await));
    }
    let value = response.json().await.context("the server's answer is not what the API says")?;
    Ok(Answer::Ok(value))
}

async fn refusal(response: Response) -> Exit {
    let status = response.status();
    let problem: Problem = response.json().await.unwrap_or_default();
    let what = if problem.detail.is_empty() { problem.title } else { problem.detail };
    let code = if problem.code.is_empty() { status.to_string() } else { problem.code };
    super::output::talk(&format!("error: {what} ({code})"));
    match status.as_u16() {
        404 => Exit::NotFound,
        409 | 403 => Exit::Refused,
        _ => Exit::Failed,
    }
}
