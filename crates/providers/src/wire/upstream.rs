//! The raw client: a caller's bytes to a provider, and the provider's bytes back.
//!
//! Like [`Client`](crate::http::Client) it takes no decision: no retry, no redirect, no proxy from the
//! environment, no limit on a whole call. What it does is to keep apart what belongs to the caller and
//! what belongs to the provider: the caller's key and cookies stop here, and of its headers only those
//! go on that are meant for the provider. Bodies are handed on as they arrive, without a copy; dropping
//! one aborts the request. A connection that turns out to be closed before a byte was sent is replaced
//! by the transport; that is not a second request.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    USER_AGENT,
};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use steadfast_guard::ErrorClass;
use tower::BoxError;
use tower::util::BoxCloneSyncService;

use super::{Dialect, Wire, WireFailure};
use crate::http::failure::{self, Lost};
use crate::http::{
    CONNECT_TIMEOUT, MAX_ERROR_READ_BYTES, OptionsError, Secrets, chain, install_tls, retry_after,
    secret_value,
};

/// What the gateway calls itself, behind the caller's own name.
const AGENT: &str = concat!("steadfast/", env!("CARGO_PKG_VERSION"));
/// A longer name of the caller's is not handed on, in bytes.
const MAX_AGENT_BYTES: usize = 256;

/// How connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// How many idle ones are kept for each provider.
    pub idle_per_host: usize,
    /// How long an idle one is kept. Below the usual 60 s of load balancers, so that they do not close
    /// one in the moment in which it is used.
    pub idle: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { idle_per_host: 256, idle: Duration::from_secs(50) }
    }
}

type Connector = BoxCloneSyncService<Uri, Connection, BoxError>;
type Connection = hyper_rustls::MaybeHttpsStream<hyper_util::rt::TokioIo<tokio::net::TcpStream>>;

/// The connections to all providers. Clones share them.
#[derive(Clone)]
pub struct Upstreams(Client<Connector, Full<Bytes>>);

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstreams")
    }
}

impl Upstreams {
    /// Prepares the client; nothing is opened. Plain `http` speaks HTTP/1.1, `https` what the two sides
    /// agree on. Makes `ring` the process's TLS provider if none was chosen before.
    ///
    /// # Errors
    /// If the platform's TLS roots cannot be used.
    pub fn new(limits: PoolLimits) -> Result<Self, OptionsError> {
        install_tls();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .try_with_platform_verifier()
            .map_err(|error| OptionsError::new("HTTP client", chain(&error)))?
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let connector = tower::timeout::Timeout::new(tls, CONNECT_TIMEOUT);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.idle)
            .pool_max_idle_per_host(limits.idle_per_host)
            .build(BoxCloneSyncService::new(connector));
        Ok(Self(client))
    }
}

/// Where a provider is and how it is asked.
#[derive(Clone)]
pub struct UpstreamOptions {
    /// The provider's name for people.
    pub name: String,
    /// Whose headers it takes.
    pub dialect: Dialect,
    /// Where its API is; [`Wire::upstream_path`] is added. OpenAI's holds `/v1`.
    pub base_url: String,
    /// The key, if it wants one.
    pub api_key: Option<SecretString>,
    /// More headers for every request; they win over the caller's. They may carry secrets.
    pub headers: Vec<(String, SecretString)>,
}

impl fmt::Debug for UpstreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("UpstreamOptions")
            .field("name", &self.name)
            .field("dialect", &self.dialect)
            .field("base_url", &self.base_url)
            .field("api_key", &self.api_key.as_ref().map(|_| "[redacted]"))
            .field("headers", &headers)
            .finish()
    }
}

/// A provider that can be sent bytes.
#[derive(Clone)]
pub struct Upstream {
    client: Client<Connector, Full<Bytes>>,
    name: String,
    dialect: Dialect,
    base: String,
    /// Scheme, host and port, for messages.
    place: String,
    headers: HeaderMap,
    secrets: Secrets,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("dialect", &self.dialect)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Prepares the provider; nothing is sent.
    ///
    /// # Errors
    /// If the URL, the key or a header cannot be used.
    pub fn new(upstreams: &Upstreams, options: UpstreamOptions) -> Result<Self, OptionsError> {
        let UpstreamOptions { name, dialect, base_url, api_key, headers: more } = options;
        let what = format!("provider `{name}`");
        let refuse = |problem: String| OptionsError::new(&what, problem);
        let url = reqwest::Url::parse(&base_url)
            .map_err(|error| refuse(format!("`base_url` is not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("`base_url` must begin with http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("`base_url` holds credentials; use `api_key`".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("`base_url` ends in a query or a fragment".to_owned()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What is handed on byte for byte is read here as well.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut secrets = Secrets::default();
        if let Some(key) = api_key {
            let text = match dialect {
                Dialect::OpenAi => format!("Bearer {}", key.expose_secret()),
                Dialect::Anthropic => key.expose_secret().to_owned(),
            };
            let value = secret_value(&text)
                .ok_or_else(|| refuse("`api_key` has a character that HTTP forbids".to_owned()))?;
            headers.insert(HeaderName::from_static(dialect.key_header()), value);
            secrets.0.push(key);
        }
        for (header, value) in more {
            let parsed = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| refuse(format!("header `{header}` is not a header name")))?;
            let secret = secret_value(value.expose_secret()).ok_or_else(|| {
                refuse(format!("header `{header}` has a character that HTTP forbids"))
            })?;
            headers.insert(parsed, secret);
            secrets.0.push(value);
        }
        let place = url.origin().ascii_serialization();
        let base = url.as_str().trim_end_matches('/').to_owned();
        let client = upstreams.0.clone();
        Ok(Self { client, name, dialect, base, place, headers, secrets })
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request and waits for the head of the answer, whatever its status. Of the caller's
    /// headers those go on that are the provider's business. Dropping the future aborts the request.
    ///
    /// # Errors
    /// [`WireFailure`] if no head came: of class `connection` if nothing was sent, of class `server` if
    /// the request may have arrived.
    pub async fn send(
        &self,
        wire: Wire,
        caller: &HeaderMap,
        body: Bytes,
    ) -> Result<UpstreamAnswer, WireFailure> {
        let uri = format!("{}{}", self.base, wire.upstream_path());
        let mut request = Request::post(uri).body(Full::new(body)).map_err(|error| {
            self.redact(failure::from_transport(&self.place, Lost::Building, &error))
        })?;
        *request.headers_mut() = self.request_headers(caller);
        let response = self.client.request(request).await.map_err(|error| {
            let lost = if error.is_connect() { Lost::Connecting } else { Lost::Waiting };
            self.redact(failure::from_transport(&self.place, lost, &error))
        })?;
        let (head, body) = response.into_parts();
        Ok(UpstreamAnswer {
            status: head.status,
            headers: head.headers,
            body: UpstreamBody { body },
            secrets: self.secrets.clone(),
        })
    }

    /// Takes the provider's secrets out of a failure that was read in a stream.
    #[must_use]
    pub fn redact(&self, failure: WireFailure) -> WireFailure {
        self.secrets.redact(failure)
    }

    fn request_headers(&self, caller: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 6);
        let own: &[&str] = match self.dialect {
            Dialect::OpenAi => &["openai-organization", "openai-project", "openai-beta"],
            Dialect::Anthropic => &["anthropic-version", "anthropic-beta"],
        };
        for name in ["idempotency-key", "traceparent", "tracestate"].iter().chain(own) {
            for value in caller.get_all(*name) {
                headers.append(HeaderName::from_static(name), value.clone());
            }
        }
        if self.dialect == Dialect::Anthropic && !headers.contains_key("anthropic-version") {
            headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        }
        headers.insert(USER_AGENT, agent(caller.get(USER_AGENT)));
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }
}

/// The caller's name with ours behind it.
fn agent(caller: Option<&HeaderValue>) -> HeaderValue {
    caller
        .and_then(|value| value.to_str().ok())
        .filter(|name| name.len() <= MAX_AGENT_BYTES)
        .and_then(|name| HeaderValue::from_str(&format!("{name} {AGENT}")).ok())
        .unwrap_or_else(|| HeaderValue::from_static(AGENT))
}

/// The head of an answer, and its body to come.
#[derive(Debug)]
pub struct UpstreamAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers as they came; [`answer_headers`] says which of them go on to the caller.
    pub headers: HeaderMap,
    /// The body.
    pub body: UpstreamBody,
    secrets: Secrets,
}

impl UpstreamAnswer {
    /// Whether the body is a stream of events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
    }

    /// Reads what a bad status means, and hands back the body as far as it was read (64 KiB at most).
    /// A body that breaks off does not change what the status says.
    pub async fn failure(self) -> (WireFailure, Bytes) {
        let status = self.status.as_u16();
        let retry_after = retry_after::read(&self.headers);
        let secrets = self.secrets;
        let (Ok(body) | Err((_, body))) = self.body.read_up_to(MAX_ERROR_READ_BYTES).await;
        let mut failure = if self.status.is_success() {
            failure::from_unstreamed(status, &body)
        } else {
            failure::from_status(status, &body)
        };
        failure.retry_after = retry_after;
        (secrets.redact(failure), body)
    }
}

/// A body on its way. Dropping it closes the request.
pub struct UpstreamBody {
    body: Incoming,
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("ended", &self.body.is_end_stream()).finish()
    }
}

impl UpstreamBody {
    /// The next bytes; `None` at the end of the body, which says nothing about the end of the answer.
    ///
    /// # Errors
    /// [`WireFailure`] of class `malformed` if the connection broke.
    pub async fn next_chunk(&mut self) -> Option<Result<Bytes, WireFailure>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The whole body.
    ///
    /// # Errors
    /// If it is larger than `limit` bytes or the connection broke: why, and what came before.
    pub async fn read_up_to(mut self, limit: usize) -> Result<Bytes, (WireFailure, Bytes)> {
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = self.next_chunk().await {
            let read = first.len() + more.len();
            let problem = match chunk {
                Ok(chunk) if read + chunk.len() <= limit => {
                    if read == 0 {
                        first = chunk;
                    } else {
                        more.extend_from_slice(&chunk);
                    }
                    continue;
                }
                Ok(chunk) => {
                    more.extend_from_slice(&chunk[..limit - read]);
                    let what = format!("the answer is larger than {limit} bytes");
                    WireFailure::malformed(what)
                }
                Err(failure) => failure,
            };
            return Err((problem, joined(first, &more)));
        }
        Ok(joined(first, &more))
    }
}

/// Most bodies come in one piece.
fn joined(first: Bytes, more: &[u8]) -> Bytes {
    if more.is_empty() { first } else { [&first, more].concat().into() }
}

impl Stream for UpstreamBody {
    type Item = Result<Bytes, WireFailure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let mut frame = self.body.frame();
            return match Pin::new(&mut frame).poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    // Trailers.
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => {
                    let what = format!("the answer was cut: {}", chain(&error));
                    Poll::Ready(Some(Err(WireFailure::new(ErrorClass::Malformed, what))))
                }
            };
        }
    }
}

/// The headers of a provider's answer that go on to the caller: all but those of the connection, the
/// cookies, and the length, which is the sender's to say.
#[must_use]
pub fn answer_headers(headers: &HeaderMap) -> HeaderMap {
    const NOT_ON: [&str; 16] = [
        "alt-svc",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "server",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
    ];
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let goes_on = |name: &HeaderName| {
        !NOT_ON.contains(&name.as_str())
            && name != AUTHORIZATION
            && !named.iter().any(|hop| hop == name.as_str())
    };
    let kept = headers.iter().filter(|(name, _)| goes_on(name));
    let mut answer = HeaderMap::new();
    for (name, value) in kept {
        answer.append(name.clone(), value.clone());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(dialect: Dialect, headers: &[(&str, &str)]) -> Upstream {
        let options = UpstreamOptions {
            name: "p".into(),
            dialect,
            base_url: "http://127.0.0.1:9/v1/".into(),
            api_key: Some("sk-own-key-1".into()),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).into())).collect(),
        };
        Upstream::new(&Upstreams::new(PoolLimits::default()).unwrap(), options).unwrap()
    }

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[tokio::test]
    async fn the_callers_key_cookies_and_connection_stop_here() {
        let caller = map(&[
            ("authorization", "Bearer callers"),
            ("x-api-key", "callers"),
            ("cookie", "a=b"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("host", "gateway"),
            ("content-length", "5"),
            ("x-stainless-lang", "python"),
            ("idempotency-key", "k"),
            ("traceparent", "00-a-b-01"),
            ("anthropic-version", "2026-10-21"),
            ("anthropic-beta", "one"),
            ("anthropic-beta", "two"),
            ("openai-organization", "org"),
            ("user-agent", "OpenAI/Python 3"),
        ]);
        let names = |headers: &HeaderMap| {
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        let openai = upstream(Dialect::OpenAi, &[]).request_headers(&caller);
        assert_eq!(
            names(&openai),
            "accept-encoding authorization content-type idempotency-key openai-organization \
             traceparent user-agent",
        );
        assert_eq!(openai["authorization"], "Bearer sk-own-key-1");
        assert!(openai["authorization"].is_sensitive());
        assert_eq!(openai["user-agent"], format!("OpenAI/Python 3 {AGENT}"));
        let anthropic =
            upstream(Dialect::Anthropic, &[("anthropic-beta", "ours")]).request_headers(&caller);
        assert_eq!(
            names(&anthropic),
            "accept-encoding anthropic-beta anthropic-version content-type idempotency-key \
             traceparent user-agent x-api-key",
        );
        assert_eq!(anthropic["x-api-key"], "sk-own-key-1");
        assert_eq!(anthropic["anthropic-version"], "2026-10-21");
        assert_eq!(anthropic.get_all("anthropic-beta").iter().count(), 1);
        let bare = upstream(Dialect::Anthropic, &[]).request_headers(&HeaderMap::new());
        assert_eq!(
            (&bare["anthropic-version"], &bare["user-agent"]),
            (&"2023-06-01".parse::<HeaderValue>().unwrap(), &AGENT.parse::<HeaderValue>().unwrap(),)
        );
    }

    #[test]
    fn of_an_answers_headers_those_of_the_connection_and_the_cookies_stop_here() {
        let kept = answer_headers(&map(&[
            ("content-type", "text/event-stream"),
            ("x-request-id", "r"),
            ("connection", "X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("content-length", "9"),
            ("x-ratelimit-remaining-tokens", "5"),
        ]));
        let names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-request-id", "x-ratelimit-remaining-tokens"]);
    }

    #[tokio::test]
    async fn wrong_options_are_refused_by_name_and_no_secret_is_shown() {
        let upstreams = Upstreams::new(PoolLimits::default()).unwrap();
        for (url, key, says) in [
            ("nowhere", "k", "`base_url` is not a URL"),
            ("ftp://x", "k", "http://"),
            ("http://a:b@x", "k", "credentials"),
            ("http://x/?a=b", "k", "query"),
            ("http://x", "k\n", "`api_key`"),
        ] {
            let options = UpstreamOptions {
                name: "p".into(),
                dialect: Dialect::OpenAi,
                base_url: url.into(),
                api_key: Some(key.into()),
                headers: Vec::new(),
            };
            let error = Upstream::new(&upstreams, options).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("`p`"), "{error}");
        }
        let shown = format!("{:?}", upstream(Dialect::OpenAi, &[("x-more", "sk-other-key")]));
        assert!(!shown.contains("sk-"), "{shown}");
    }
}
