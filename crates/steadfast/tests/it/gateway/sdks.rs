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

/// What runs scripts, and where it finds the SDKs.
enum Language {
    Python,
    JavaScript,
}

fn variable(name: &str) -> Option<String> {
    let found = std::env::vars_os().find(|(variable, _)| variable == name);
    found?.1.into_string().ok()
}

impl Language {
    /// What runs a script of it, if both SDKs are there.
    fn command(&self, script: &str) -> Option<Command> {
        match self {
            Self::Python => {
                let python = variable("STEADFAST_TEST_PYTHON")?;
                let has = Command::new(&python).args(["-c", "import openai, anthropic"]).output();
                has.ok().filter(|has| has.status.success())?;
                let mut command = Command::new(python);
                command.args(["-c", script]);
                Some(command)
            }
            Self::JavaScript => {
                let folder = variable("STEADFAST_TEST_NODE")?;
                let mut command = Command::new("node");
                command.current_dir(folder).args(["--input-type=module", "-e", script]);
                Some(command)
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests is told what was left out")]
fn passes(language: &Language, script: &str) {
    let Some(mut command) = language.command(script) else {
        eprintln!("skipped: no STEADFAST_TEST_PYTHON or STEADFAST_TEST_NODE with both SDKs");
        return;
    };
    let world = World::start(CONFIG);
    command.arg(format!("http://{}", world.address())).arg(format!("http://{}", world.provider));
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
fn g9_openais_python_sdk_gets_answers_streams_tools_and_errors_without_multiplied_retries() {
    let script = concat!(include_str!("provider.py"), include_str!("openai_sdk.py"));
    passes(&Language::Python, script);
}

#[test]
fn g9_anthropics_python_sdk_gets_answers_streams_tools_and_errors_without_multiplied_retries() {
    let script = concat!(include_str!("provider.py"), include_str!("anthropic_sdk.py"));
    passes(&Language::Python, script);
}

#[test]
fn g9_openais_javascript_sdk_gets_answers_streams_tools_and_errors_without_multiplied_retries() {
    let script = concat!(include_str!("provider.mjs"), include_str!("openai_sdk.mjs"));
    passes(&Language::JavaScript, script);
}

#[test]
fn g9_anthropics_javascript_sdk_gets_answers_streams_tools_and_errors_without_multiplied_retries() {
    let script = concat!(include_str!("provider.mjs"), include_str!("anthropic_sdk.mjs"));
    passes(&Language::JavaScript, script);
}
