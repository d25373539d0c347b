//! The gateway as programs meet it: real clients in front, a provider with faults on demand behind.

mod books;
mod cuts;
mod dialects;
mod leaving;
mod sdks;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::http::{Server, get, post, serve};
use crate::program::{Running, steadfast};

/// Whatever is asked is answered, but a question about the weather, which calls a tool.
const SCRIPT: &str = r#"name = "m"
[[entry]]
when = "weather"
goto = "call"
[[entry]]
when = ""
goto = "end"
[[step]]
name = "call"
text = "I look."
calls = [{ tool = "weather", arguments = { city = "Bern" } }]
usage = { input = 50, output = 10 }
[[step]]
name = "end"
text = "It is sunny in Bern."
usage = { input = 40, cached_input = 10, output = 8 }
"#;

/// A provider that can be made to fail, and the gateway in front of it.
struct World {
    gateway: Server,
    provider: String,
    folder: PathBuf,
    _sim: Running,
    _temporary: tempfile::TempDir,
}

impl World {
    /// `config` comes after two models: `chat` on the OpenAI wire, `claude` on the Anthropic one.
    fn start(config: &str) -> Self {
        Self::of(SCRIPT, config)
    }

    fn of(script: &str, config: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let folder = temporary.path().to_owned();
        std::fs::write(folder.join("m.toml"), script).expect("written");
        let (sim, provider) = simulate(&folder);
        let models = format!(
            "[providers.openai]\nwire = \"openai\"\nbase_url = \"http://{provider}/v1\"\n\
             [providers.anthropic]\nwire = \"anthropic\"\nbase_url = \"http://{provider}\"\n\
             [models.chat]\nprovider = \"openai\"\nmodel = \"gpt-6.1-sol\"\n\
             [models.claude]\nprovider = \"anthropic\"\nmodel = \"claude-sonnet-5\"\n"
        );
        std::fs::write(folder.join("steadfast.toml"), models + config).expect("written");
        let gateway = serve(&folder);
        Self { gateway, provider, folder, _sim: sim, _temporary: temporary }
    }

    fn address(&self) -> &str {
        &self.gateway.address
    }

    /// Puts these faults in place of the present ones; requests count from 1 again for them.
    fn faults(&self, faults: &Value) {
        let (status, body) =
            post(&self.provider, "/sim/faults", "application/json", &faults.to_string());
        assert_eq!(status, 200, "{body}");
    }

    /// The requests that have reached the provider.
    fn requests(&self) -> u64 {
        let status: Value = serde_json::from_str(&get(&self.provider, "/sim").body).expect("JSON");
        status["requests"].as_u64().expect("a number")
    }
}

fn simulate(folder: &Path) -> (Running, String) {
    let mut command = steadfast(folder);
    command.args(["sim", "m.toml", "--listen", "127.0.0.1:0"]);
    let mut sim = Running::start(command);
    let line = sim.wait_for("Anthropic base URL http://");
    let address = line.rsplit("http://").next().expect("it is said").trim().to_owned();
    (sim, address)
}

/// A request for a stream or a whole answer, on either wire.
fn asks(wire: &str, stream: bool, max_tokens: u64) -> (&'static str, String) {
    let (path, model) = match wire {
        "messages" => ("/v1/messages", "claude"),
        _ => ("/v1/chat/completions", "chat"),
    };
    let body = serde_json::json!({
        "model": model,
        "max_tokens": max_tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    });
    (path, body.to_string())
}
