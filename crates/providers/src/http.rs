//! The HTTP side of a model: one client for all of them, and one endpoint for each.
//!
//! The client takes no decision. It does not retry, it has no limit on a whole call (time limits
//! belong to the guard), it follows no redirect (a redirect would carry `x-api-key` to another host)
//! and it reads no proxy setting from the environment: a proxy that is not in the configuration must
//! not see prompts. A pooled connection that turns out to be closed before a byte was sent is replaced
//! by the transport; that is not a second request.

pub(crate) mod failure;
pub(crate) mod retry_after;
mod stream;

use std::fmt;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use steadfast_guard::ErrorClass;

use crate::model::{ModelError, ModelRequest};

use failure::Lost;
pub use failure::WireFailure;
pub(crate) use stream::{Accumulate, answer_stream};

/// How long a connection may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes. Larger ones are [`ErrorClass::Malformed`].
pub const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// The longest part of an error body that reaches a message, in bytes.
pub const MAX_ERROR_BYTES: usize = 2 * 1024;

/// How much of an error body is read in order to classify it.
pub(crate) const MAX_ERROR_READ_BYTES: usize = 64 * 1024;

/// Makes `ring` the process's TLS provider if none was chosen before. Every HTTP client needs one.
pub fn install_tls() {
    // Two callers may race here; whoever loses finds a provider installed, which is all we need.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

/// The HTTP client that all models share: one pool of connections.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    /// Builds the client, and makes `ring` the process's TLS provider if none was chosen before.
    ///
    /// # Errors
    /// If the TLS roots cannot be loaded.
    pub fn new() -> Result<Self, OptionsError> {
        install_tls();
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| OptionsError {
                what: "HTTP client".to_owned(),
                problem: chain(&error.without_url()),
            })
    }
}

/// Where a model is and how it is asked.
#[derive(Clone)]
pub struct ModelOptions {
    /// The provider's name for people, such as `openai`.
    pub provider: String,
    /// The model, as the provider names it.
    pub model: String,
    /// Where the API is. The OpenAI wire adds `/chat/completions` (so the URL holds `/v1`), the
    /// Anthropic wire adds `/v1/messages`.
    pub base_url: String,
    /// The key, if the provider wants one.
    pub api_key: Option<SecretString>,
    /// Whether the answers are scripted.
    pub simulated: bool,
    /// The longest answer in tokens, for requests that do not say.
    pub max_output_tokens: Option<u32>,
    /// More headers for every request. They may carry secrets, so they are kept as such.
    pub headers: Vec<(String, SecretString)>,
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ModelOptions")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("base_url", &self.base_url)
            .field("api_key", &self.api_key.as_ref().map(|_| "[redacted]"))
            .field("simulated", &self.simulated)
            .field("max_output_tokens", &self.max_output_tokens)
            .field("headers", &headers)
            .finish()
    }
}

/// Why a model cannot be built from its options.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct OptionsError {
    what: String,
    problem: String,
}

impl OptionsError {
    pub(crate) fn new(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: problem.into() }
    }
}

/// How the key travels.
#[derive(Clone, Copy)]
pub(crate) enum KeyHeader {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// `x-api-key: KEY`.
    ApiKey,
}

/// One URL that answers for one model.
pub(crate) struct Endpoint {
    client: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    secrets: Secrets,
    name: String,
    options: ModelOptions,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url.as_str())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) fn new(
        client: &Client,
        options: ModelOptions,
        path: &str,
        key_header: KeyHeader,
    ) -> Result<Self, OptionsError> {
        let name = format!("{}/{}", options.provider, options.model);
        let refuse = |problem: String| OptionsError { what: format!("model `{name}`"), problem };
        let joined = format!("{}{path}", options.base_url.trim_end_matches('/'));
        let url = reqwest::Url::parse(&joined)
            .map_err(|error| refuse(format!("`base_url` is not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("`base_url` must begin with http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("`base_url` holds credentials; use `api_key`".to_owned()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut secrets = Secrets::default();
        if let Some(key) = &options.api_key {
            let (header, text) = match key_header {
                KeyHeader::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose_secret())),
                KeyHeader::ApiKey => {
                    (HeaderName::from_static("x-api-key"), key.expose_secret().to_owned())
                }
            };
            headers.insert(
                header,
                secret_value(&text)
                    .ok_or_else(|| refuse("`api_key` has a character that HTTP forbids".into()))?,
            );
            secrets.0.push(key.clone());
        }
        for (header, value) in &options.headers {
            let parsed = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| refuse(format!("header `{header}` is not a header name")))?;
            let secret = secret_value(value.expose_secret()).ok_or_else(|| {
                refuse(format!("header `{header}` has a character that HTTP forbids"))
            })?;
            headers.insert(parsed, secret);
            secrets.0.push(value.clone());
        }
        Ok(Self { client: client.0.clone(), url, headers, secrets, name, options })
    }

    /// Adds a header that every request carries, unless the options name it.
    pub(crate) fn default_header(&mut self, name: &'static str, value: &'static str) {
        self.headers
            .entry(HeaderName::from_static(name))
            .or_insert_with(|| HeaderValue::from_static(value));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// Sends one request and hands back a response with a good status.
    async fn send(
        &self,
        request: &ModelRequest,
        body: &serde_json::Value,
    ) -> Result<reqwest::Response, ModelError> {
        let mut headers = self.headers.clone();
        if let Some(key) = &request.idempotency_key {
            let value = HeaderValue::from_str(key).map_err(|_| {
                let what = "the idempotency key has a character that HTTP forbids";
                self.error(WireFailure::new(ErrorClass::Internal, what))
            })?;
            headers.insert("idempotency-key", value);
        }
        let bytes = serde_json::to_vec(body).map_err(|error| {
            self.error(WireFailure::new(ErrorClass::Internal, format!("cannot encode: {error}")))
        })?;
        let sent = self.client.post(self.url.clone()).headers(headers).body(bytes).send().await;
        let response = sent.map_err(|error| {
            let place = self.url.origin().ascii_serialization();
            let lost = if error.is_connect() {
                Lost::Connecting
            } else if error.is_builder() {
                Lost::Building
            } else {
                Lost::Waiting
            };
            self.error(failure::from_transport(&place, lost, &error.without_url()))
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after = retry_after::read(response.headers());
        // A lost error body does not change what the status says.
        let body =
            read_up_to(response, MAX_ERROR_READ_BYTES).await.unwrap_or_else(|rest| rest.read);
        let mut error = self.error(failure::from_status(status, &body));
        error.retry_after = retry_after;
        Err(error)
    }

    /// Asks and reads the whole answer.
    pub(crate) async fn ask(
        &self,
        request: &ModelRequest,
        body: &serde_json::Value,
    ) -> Result<Vec<u8>, ModelError> {
        let response = self.send(request, body).await?;
        read_up_to(response, MAX_ANSWER_BYTES).await.map_err(|cut| {
            self.error(WireFailure::new(
                ErrorClass::Malformed,
                format!("the answer was cut: {}", cut.problem),
            ))
        })
    }

    /// Asks for an event stream and returns once its head is there.
    pub(crate) async fn ask_stream(
        &self,
        request: &ModelRequest,
        body: &serde_json::Value,
    ) -> Result<reqwest::Response, ModelError> {
        let response = self.send(request, body).await?;
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/json"));
        if !is_json {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = read_up_to(response, MAX_ERROR_READ_BYTES).await.unwrap_or_else(|cut| cut.read);
        Err(self.error(failure::from_unstreamed(status, &text)))
    }

    /// Names the model in an error, and takes every secret out of its message.
    pub(crate) fn error(&self, error: WireFailure) -> ModelError {
        self.redactor().error(error)
    }

    pub(crate) fn redactor(&self) -> Redactor {
        Redactor { model: self.name.clone(), secrets: self.secrets.clone() }
    }
}

/// What a stream needs of its endpoint once it lives alone.
pub(crate) struct Redactor {
    model: String,
    secrets: Secrets,
}

impl Redactor {
    pub(crate) fn error(&self, error: WireFailure) -> ModelError {
        let error = self.secrets.redact(error);
        ModelError {
            class: error.class,
            model: self.model.clone(),
            status: error.status,
            message: error.message,
            retry_after: error.retry_after,
        }
    }
}

/// What must not be in any message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(pub(crate) Vec<SecretString>);

impl Secrets {
    /// Takes every secret out of what a failure says, and shortens it to [`MAX_ERROR_BYTES`].
    pub(crate) fn redact(&self, mut failure: WireFailure) -> WireFailure {
        for secret in &self.0 {
            let secret = secret.expose_secret();
            // Very short values (a header such as `1`) are no secrets and would garble the text.
            if secret.len() >= 6 {
                for text in [&mut failure.message, &mut failure.kind, &mut failure.code] {
                    *text = text.replace(secret, "[redacted]");
                }
            }
        }
        failure.message = cut(&failure.message, MAX_ERROR_BYTES);
        failure
    }
}

struct CutBody {
    read: Vec<u8>,
    problem: String,
}

async fn read_up_to(response: reqwest::Response, limit: usize) -> Result<Vec<u8>, CutBody> {
    let mut read = BytesMut::new();
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) if read.len() + piece.len() <= limit => read.extend_from_slice(&piece),
            Ok(piece) => {
                let room = limit - read.len();
                read.extend_from_slice(&piece[..room]);
                let problem = format!("it is larger than {limit} bytes");
                return Err(CutBody { read: read.to_vec(), problem });
            }
            Err(error) => {
                let problem = chain(&error.without_url());
                return Err(CutBody { read: read.to_vec(), problem });
            }
        }
    }
    Ok(read.to_vec())
}

pub(crate) fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mark = " [cut]";
    let end = text.floor_char_boundary(limit - mark.len());
    format!("{}{mark}", &text[..end])
}
