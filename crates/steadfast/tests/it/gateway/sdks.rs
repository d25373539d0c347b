//! The official SDKs as clients: what they get, and how often the provider is asked for it.

use std::process::Command;

use super::World;
use crate::program::text;

const CONFIG: &str = r#"
[models.busy]
provider = "openai"
model = "gpt-6.1-sol"
[models.down]
provider = "openai"
model = "gpt-6.1-sol"
[models.tired]
provider = "anthropic"
model = "claude-sonnet-5"
[policies."model:*"]
retry = { max_retries = 1, base_delay = "1ms" }
breaker = { consecutive_failures = 1000, min_calls = 1000 }
attempt_timeout = "2s"
first_item_timeout = "2s"
[policies."model:down"]
retry = { max_retries = 0 }
breaker = { consecutive_failures = 1, open_for = "20s", open_jitter = 0.0 }
[[budget]]
scope = "tenant"
name = "poor"
tokens = 10
"#;

/// A Python that has both SDKs.
fn python() -> Option<String> {
    let python = std::env::vars_os().find(|(name, _)| name == "STEADFAST_TEST_PYTHON");
    let python = python?.1.into_string().ok()?;
    let has = Command::new(&python).args(["-c", "import openai, anthropic"]).output();
    has.is_ok_and(|has| has.status.success()).then_some(python)
}

fn passes(script: &str) {
    let Some(python) = python() else {
        eprintln!("skipped: STEADFAST_TEST_PYTHON names no Python with openai and anthropic");
        return;
    };
    let world = World::start(CONFIG);
    let (gateway, provider) =
        (format!("http://{}", world.address()), format!("http://{}", world.provider));
    let mut command = Command::new(python);
    command.args(["-c", script, &gateway, &provider]);
    for proxy in
        ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    {
        command.env_remove(proxy);
    }
    let done = command.output().expect("it starts");
    assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
    assert!(text(&done.stdout).ends_with("all is as said\n"), "{}", text(&done.stdout));
}

#[test]
fn g9_the_openai_sdk_gets_answers_streams_tools_and_every_error_without_multiplied_retries() {
    passes(concat!(include_str!("provider.py"), include_str!("openai_sdk.py")));
}

#[test]
fn g9_the_anthropic_sdk_gets_answers_streams_tools_and_every_error_without_multiplied_retries() {
    passes(concat!(include_str!("provider.py"), include_str!("anthropic_sdk.py")));
}
