//! `http_get`: reads from allowed hosts.
//!
//! The allow-list is checked for the first address and for every redirect. Loopback, private and other
//! special addresses are reached only if the host stands literally in the list; that is checked on the
//! addresses that are really connected to, so a name that resolves to an inner address gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::json;
use steadfast_guard::{Effect, ErrorClass};
use tokio::time::{Instant, timeout_at};

use super::{DEFAULT_OUTPUT_BYTES, ToolConfigError};
use crate::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

const MAX_REDIRECTS: usize = 5;

/// What may be read.
#[derive(Clone, Debug)]
pub struct HttpGetOptions {
    /// Hosts: exact (`example.org`, `127.0.0.1`) or all below one (`*.example.org`).
    pub hosts: Vec<String>,
    /// The most of a body that is read, in bytes. Default 64 KiB.
    pub body_bytes: usize,
}

impl HttpGetOptions {
    /// These hosts, with the defaults.
    #[must_use]
    pub fn new(hosts: &[&str]) -> Self {
        Self {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            body_bytes: DEFAULT_OUTPUT_BYTES,
        }
    }
}

/// The tool of [`HttpGetOptions`]. Dropping a call aborts the request.
#[derive(Debug)]
pub struct HttpGet {
    spec: ToolSpec,
    client: reqwest::Client,
    allowed: Arc<AllowList>,
    body_bytes: usize,
}

#[derive(Debug)]
struct AllowList {
    exact: Vec<String>,
    /// With the dot: `.example.org`.
    suffixes: Vec<String>,
}

impl HttpGet {
    /// The tool. Proxies of the environment are not used: they would connect in our place, unchecked.
    ///
    /// # Errors
    /// [`ToolConfigError`] if a host is malformed or the TLS set-up fails.
    pub fn new(options: &HttpGetOptions) -> Result<Self, ToolConfigError> {
        let wrong = |reason| ToolConfigError { tool: "http_get".to_owned(), reason };
        let allowed = Arc::new(AllowList::parse(&options.hosts).map_err(wrong)?);
        // Whoever comes first installs it for the process; it is the same provider everywhere.
        if rustls::crypto::CryptoProvider::get_default().is_none()
            && rustls::crypto::ring::default_provider().install_default().is_err()
        {
            tracing::debug!("a TLS provider was installed meanwhile");
        }
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(CheckedResolver { allowed: Arc::clone(&allowed) }))
            .build()
            .map_err(|error| wrong(format!("cannot set up HTTP: {error}")))?;
        let schema = json!({
            "type": "object",
            "properties": {"url": {"type": "string", "description": "http or https"}},
            "required": ["url"],
            "additionalProperties": false
        });
        let description = format!("Fetch a URL. Allowed hosts: {}.", options.hosts.join(", "));
        let spec = super::spec("http_get", &description, schema, Effect::Read);
        Ok(Self { spec, client, allowed, body_bytes: options.body_bytes })
    }

    fn error(&self, class: ErrorClass, message: String) -> ToolError {
        super::error(&self.spec, class, message)
    }

    async fn fetch(&self, text: &str) -> Result<ToolOutput, ToolError> {
        let mut url = Url::parse(text).map_err(|error| {
            self.error(ErrorClass::InvalidRequest, format!("`{text}` is not a URL: {error}"))
        })?;
        for _ in 0..=MAX_REDIRECTS {
            self.allowed.check(&url).map_err(|why| self.error(ErrorClass::Permission, why))?;
            let response = self.client.get(url.clone()).send().await.map_err(|e| self.lost(&e))?;
            if !response.status().is_redirection() {
                return self.read(response).await;
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(target) = target.and_then(|target| url.join(target).ok()) else {
                return self.read(response).await;
            };
            url = target;
        }
        Err(self.error(ErrorClass::Malformed, format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<ToolOutput, ToolError> {
        let status = response.status();
        let mut body = Vec::new();
        let mut cut = false;
        while !cut && let Some(chunk) = response.chunk().await.map_err(|e| self.lost(&e))? {
            let room = self.body_bytes - body.len();
            cut = chunk.len() > room;
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        let mut text = String::from_utf8_lossy(&body).into_owned();
        if cut {
            text.push_str(&format!("\n[cut after {} bytes]", self.body_bytes));
        }
        if status.is_success() {
            return Ok(ToolOutput::text(text));
        }
        let Some(class) = transient(status) else {
            return Ok(super::failed(format!("HTTP {status}\n{text}")));
        };
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = seconds.and_then(|text| text.trim().parse().ok());
        Err(ToolError {
            retry_after: retry_after.map(std::time::Duration::from_secs),
            ..self.error(class, format!("the server answered HTTP {status}"))
        })
    }

    fn lost(&self, error: &reqwest::Error) -> ToolError {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.is::<Refused>() {
                return self.error(ErrorClass::Permission, cause.to_string());
            }
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        let class = if error.is_timeout() {
            ErrorClass::Timeout
        } else if error.is_decode() || error.is_body() {
            ErrorClass::Malformed
        } else {
            ErrorClass::Connection
        };
        self.error(class, reason)
    }
}

#[async_trait]
impl Tool for HttpGet {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let url = super::text_argument(&self.spec, &call.arguments, "url", None)?;
        let deadline = call.deadline.min(Instant::now() + self.spec.timeout);
        timeout_at(deadline, self.fetch(&url)).await.unwrap_or_else(|_| {
            Err(self.error(ErrorClass::Timeout, "no full answer within the time limit".to_owned()))
        })
    }
}

/// What the caller's guard should see; everything else is an answer for the model.
fn transient(status: StatusCode) -> Option<ErrorClass> {
    match status.as_u16() {
        401 => Some(ErrorClass::Authentication),
        408 | 504 => Some(ErrorClass::Timeout),
        429 => Some(ErrorClass::RateLimited),
        503 | 529 => Some(ErrorClass::Unavailable),
        500..=599 => Some(ErrorClass::Server),
        _ => None,
    }
}

impl AllowList {
    fn parse(hosts: &[String]) -> Result<Self, String> {
        let mut list = Self { exact: Vec::new(), suffixes: Vec::new() };
        for host in hosts {
            let host = host.to_ascii_lowercase();
            let (suffix, name) = match host.strip_prefix("*.") {
                Some(name) => (true, name),
                None => (false, host.as_str()),
            };
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if name.is_empty() || name.contains(['*', '/', '@', ' ']) {
                return Err(format!(
                    "`{host}` is not a host; write `example.org` or `*.example.org`"
                ));
            }
            if suffix {
                list.suffixes.push(format!(".{name}"));
            } else {
                list.exact.push(name.to_owned());
            }
        }
        Ok(list)
    }

    fn is_literal(&self, host: &str) -> bool {
        self.exact.iter().any(|exact| exact == host)
    }

    fn check(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("only http and https are allowed, not `{}`", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL with a user name or password is not allowed".to_owned());
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let below =
            self.suffixes.iter().any(|s| host.len() > s.len() && host.ends_with(s.as_str()));
        // An address is below no name, and only a literal entry allows it.
        let below = below && host.parse::<IpAddr>().is_err();
        if self.is_literal(host) || below {
            return Ok(());
        }
        Err(format!("the host `{host}` is not in the allow-list"))
    }
}

struct CheckedResolver {
    allowed: Arc<AllowList>,
}

#[derive(Debug, thiserror::Error)]
#[error("the host `{host}` has only inner addresses, and is not literally in the allow-list")]
struct Refused {
    host: String,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        let literal = self.allowed.is_literal(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0))
                .await?
                .filter(|address| literal || is_public(address.ip()))
                .collect();
            if found.is_empty() {
                return Err(Refused { host }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4() {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let reserved =
        a == 0 || a >= 224 || (a == 192 && b == 0 && c == 0) || (a == 198 && b & 0xFE == 18);
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || shared
        || reserved)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // 2000::/3 is all that is global unicast; 2002::/16 (6to4) and 64:ff9b::/96 carry IPv4 addresses inside.
    let first = address.segments()[0];
    first & 0xE000 == 0x2000 && first != 0x2002
}

#[cfg(test)]
mod tests {
    use super::{AllowList, is_public};
    use reqwest::Url;

    fn allows(hosts: &[&str], url: &str) -> bool {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        AllowList::parse(&hosts).unwrap().check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn hosts_match_exactly_or_below_a_suffix() {
        let hosts = ["example.org", "*.example.com"];
        assert!(allows(&hosts, "https://EXAMPLE.org/x"));
        assert!(allows(&hosts, "http://a.b.example.com:8080/"));
        for url in [
            "https://example.com/",
            "https://sub.example.org/",
            "https://evilexample.com/",
            "https://example.org.evil.net/",
            "https://example.org@evil.net/",
            "ftp://example.org/",
            "http://127.0.0.1/",
            "http://[::1]/",
        ] {
            assert!(!allows(&hosts, url), "{url}");
        }
    }

    #[test]
    fn inner_addresses_are_not_public() {
        for inner in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::ffff:10.0.0.1",
            "fe80::1",
            "fd00::1",
            "224.0.0.1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(inner.parse().unwrap()), "{inner}");
        }
        for outer in ["8.8.8.8", "2606:4700::1111"] {
            assert!(is_public(outer.parse().unwrap()), "{outer}");
        }
    }
}
