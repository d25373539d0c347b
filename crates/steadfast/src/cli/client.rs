//! Talks to a server's management API.

use anyhow::{Context as _, anyhow};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use steadfast_store::RunId;

use super::Exit;

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
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
        let base = Url::parse(&format!("{}/api/v1", server.trim_end_matches('/')))
            .ok()
            .filter(|base| matches!(base.scheme(), "http" | "https"));
        let base = base.with_context(|| {
            format!("`--server` is `{server}`: name it like `http://127.0.0.1:7420`")
        })?;
        Ok(Self { http, base })
    }

    /// Where a person can look at a run. A password in the server's address is not repeated.
    pub(super) fn console(&self, run: RunId) -> String {
        let server = self.base.origin().ascii_serialization();
        let path = self.base.path().trim_end_matches("/api/v1");
        format!("{server}{path}/console/runs/{run}")
    }

    /// Gets what a query finds.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Answer<T>> {
        let url = Url::parse_with_params(&format!("{}{path}", self.base), query)?;
        read(self.send(self.http.get(url)).await?).await
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

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: &Value,
    ) -> anyhow::Result<Answer<T>> {
        let url = Url::parse_with_params(&format!("{}{path}", self.base), query)?;
        read(self.send(self.http.put(url).json(body)).await?).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Answer<T>> {
        read(self.send(self.request(Method::PATCH, path).json(body)).await?).await
    }

    pub(super) async fn delete(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Answer<()>> {
        let url = Url::parse_with_params(&format!("{}{path}", self.base), query)?;
        let response = self.send(self.http.delete(url)).await?;
        if response.status().is_success() {
            return Ok(Answer::Ok(()));
        }
        Ok(Answer::Refused(refusal(response).await))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_page_is_told_without_the_servers_password() {
        let run: RunId = "01936f3e-7c3a-7b1e-9d5a-2f6c8a4b0e17".parse().unwrap();
        for (server, expected) in [
            ("http://127.0.0.1:7420/", "http://127.0.0.1:7420"),
            ("https://me:secret@agents.example/team", "https://agents.example/team"),
        ] {
            let page = Client::new(server).unwrap().console(run);
            assert_eq!(page, format!("{expected}/console/runs/{run}"));
        }
    }
}
