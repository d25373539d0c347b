//! What the nodes are given to do: a script for the model, a configuration, and runs of every sort.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// What `tools::CLIENT` is called in the folder.
pub(crate) const CLIENT_FILE: &str = "client.sh";

/// Tools of the world outside that remember their keys.
pub(crate) const IDEMPOTENT: &[&str] = &["put", "refund", "unput"];

/// Tools that must never be carried out twice for the same thing.
pub(crate) const ONCE: &[&str] = &["pay", "charge", "flaky", "unpay", "ship", "send"];

/// Tools whose answer may come too late: whether they have taken effect is asked then, the one of a tool, the
/// other of a person.
pub(crate) const DOUBTFUL: &[&str] = &["ship", "send"];

/// The tool that says whether one of these has taken effect.
pub(crate) const VERIFY: &str = "has_happened";

/// Runs that the provider refuses for a while: a script's fault at a step strikes once.
const QUIET: usize = 200;

/// Orders that several runs want to settle.
pub(crate) const ORDERS: usize = 150;

/// A run to be submitted.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) key: String,
    pub(crate) agent: &'static str,
    pub(crate) input: String,
}

impl Wish {
    pub(crate) fn body(&self) -> Value {
        json!({ "agent": self.agent, "input": self.input, "key": self.key })
    }
}

/// Draws runs.
pub(crate) struct Wishes {
    dice: fastrand::Rng,
    made: usize,
    quiet: usize,
}

impl Wishes {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: fastrand::Rng::with_seed(seed), made: 0, quiet: 0 }
    }

    /// A run of any sort; one that is sure to bring an event of `kind`, if there is such a sort.
    pub(crate) fn draw(&mut self, kind: Option<&str>) -> Wish {
        let sort = match kind {
            Some("failed") => 70,
            Some("parked" | "resumed") => 80,
            Some("call_judged") => 90,
            Some(_) => 0,
            None => self.dice.usize(0..100),
        };
        let (agent, input) = match sort {
            0..40 => ("mixed", "mixed".to_owned()),
            40..60 => ("orders", format!("order {}.", self.dice.usize(1..=ORDERS))),
            60..68 => ("later", "later".to_owned()),
            68..76 => ("broken", "broken".to_owned()),
            88.. => ("unsure", "unsure".to_owned()),
            _ => {
                self.quiet = self.quiet % QUIET + 1;
                ("quiet", format!("quiet {}.", self.quiet))
            }
        };
        self.made += 1;
        Wish { key: format!("wish-{}", self.made), agent, input }
    }
}

/// A step that calls tools, each with what it is about.
fn step(script: &mut String, name: &str, calls: &[(&str, &str)]) {
    let calls: Vec<String> = calls
        .iter()
        .map(|(tool, what)| format!("{{ tool = \"{tool}\", arguments = {{ what = \"{what}\" }} }}"))
        .collect();
    writeln!(script, "[[step]]\nname = \"{name}\"\ncalls = [{}]", calls.join(", "))
        .expect("a text grows");
}

/// After these steps the script goes on at `end`, whatever their results.
fn then_end(script: &mut String) {
    script.push_str("next = [{ when = \"(?s).*\", goto = \"end\" }]\n");
}

/// What the model says. The ticket that `look` brings makes what is done in one run unlike what is done
/// in any other, without a word from the runtime.
pub(crate) fn script() -> String {
    let mut script = "name = \"kill\"\n".to_owned();
    let entries =
        ["mixed", "broken", "later", "unsure"].map(|name| (name.to_owned(), format!("{name}-1")));
    let orders = (1..=ORDERS).map(|n| (format!("order {n}[.]"), format!("order-{n}")));
    let quiets = (1..=QUIET).map(|n| (format!("quiet {n}[.]"), format!("quiet-{n}")));
    for (when, goto) in entries.into_iter().chain(orders).chain(quiets) {
        writeln!(script, "[[entry]]\nwhen = \"^{when}\"\ngoto = \"{goto}\"").expect("grows");
    }
    let ticket = "{{result.mixed-1#/number}}";
    step(&mut script, "mixed-1", &[("look", "ticket"), ("look", "weather")]);
    step(&mut script, "mixed-2", &[("put", &format!("a-{ticket}"))]);
    step(&mut script, "mixed-3", &[("pay", &format!("a-{ticket}"))]);
    script.push_str(
        "[[step]]\nname = \"mixed-4\"\ncalls = [{ tool = \"report_progress\", arguments = { step = 1, \
         total = 2, description = \"half\" } }]\n",
    );
    let second = [format!("b-{ticket}"), format!("c-{ticket}"), format!("d-{ticket}")];
    step(&mut script, "mixed-5", &[("pay", &*second[0]), ("put", &second[1]), ("pay", &second[2])]);
    then_end(&mut script);

    step(&mut script, "broken-1", &[("look", "ticket")]);
    step(&mut script, "broken-2", &[("pay", "e-{{result.broken-1#/number}}")]);
    script.push_str("[[step]]\nname = \"broken-3\"\ncalls = [{ tool = \"look\", arguments = { what = \"never\" } }]\n");
    then_end(&mut script);
    step(&mut script, "unsure-1", &[("look", "ticket")]);
    for (n, tool) in (2..).zip(DOUBTFUL) {
        step(&mut script, &format!("unsure-{n}"), &[(tool, "u-{{result.unsure-1#/number}}")]);
    }
    then_end(&mut script);
    step(&mut script, "later-1", &[("look", "ticket")]);
    step(&mut script, "later-2", &[("flaky", "f-{{result.later-1#/number}}")]);
    then_end(&mut script);
    for n in 1..=ORDERS {
        step(&mut script, &format!("order-{n}"), &[("charge", &format!("order-{n}"))]);
        step(&mut script, &format!("order-{n}-2"), &[("refund", &format!("order-{n}"))]);
        then_end(&mut script);
    }
    for n in 1..=QUIET {
        step(&mut script, &format!("quiet-{n}"), &[("look", "ticket")]);
        let what = format!("g-{{{{result.quiet-{n}#/number}}}}");
        step(&mut script, &format!("quiet-{n}-2"), &[("put", &what)]);
        then_end(&mut script);
    }
    script.push_str("[[step]]\nname = \"end\"\ntext = \"All is done.\"\n");
    for n in 1..=QUIET {
        writeln!(
            script,
            "[[fault]]\nstep = \"quiet-{n}\"\nkind = \"status\"\ncode = 429\nretry_after = 0.2"
        )
        .expect("grows");
    }
    script.push_str(
        "[[fault]]\nstep = \"broken-3\"\ntimes = 1000000\nkind = \"status\"\ncode = 400\n",
    );
    script
}

/// The tools: each is a command that asks the server.
fn tool_sections(text: &mut String, server: u16) {
    let effects = [("look", "read"), (VERIFY, "read")].into_iter();
    let effects = effects.chain(IDEMPOTENT.iter().map(|tool| (*tool, "idempotent")));
    for (tool, effect) in effects.chain(ONCE.iter().map(|tool| (*tool, "once"))) {
        writeln!(
            text,
            "[tools.{tool}]\nkind = \"command\"\ncommand = [\"bash\", \"{CLIENT_FILE}\", \"{server}\", \
             \"{tool}\", \"{{what}}\"]\ndescription = \"{tool}\"\neffect = \"{effect}\""
        )
        .expect("grows");
        if DOUBTFUL.contains(&tool) {
            // Shorter than what a call may take at the server, and no reason to call it no more.
            writeln!(
                text,
                "timeout = \"1s\"\n[policies.\"tool:{tool}\"]\n\
                 breaker = {{ consecutive_failures = 100000, failure_ratio = 1.0, min_calls = 100000 }}"
            )
            .expect("grows");
        }
    }
}

/// The configuration. In a drill two of three calls of `flaky` do not leave.
pub(crate) fn configure(folder: &Path, provider: &str, tools: u16, extra: &str, drill: bool) {
    let mut text = format!(
        "{extra}\n[runtime]\nlease_ttl = \"1s\"\ncheckpoint_interval = \"100ms\"\n[log]\nlevel = \"info,steadfast_runtime=debug\"\n[providers.played]\nwire = \"openai\"\n\
         base_url = \"{provider}\"\n"
    );
    for model in ["main", "broken", "quiet"] {
        let table = format!("[models.{model}]\nprovider = \"played\"\nmodel = \"kill\"\n");
        text.push_str(&table);
    }
    tool_sections(&mut text, tools);
    let agents = [
        ("mixed", "main", "\"look\", \"put\", \"pay\", \"report_progress\""),
        ("orders", "main", "\"charge\", \"refund\""),
        ("later", "main", "\"look\", \"flaky\""),
        ("broken", "broken", "\"look\", \"pay\""),
        ("unsure", "main", "\"look\", \"ship\", \"send\""),
        ("quiet", "quiet", "\"look\", \"put\""),
    ];
    for (agent, model, tools) in agents {
        writeln!(text, "[agents.{agent}]\nmodel = \"{model}\"\ntools = [{tools}]").expect("grows");
    }
    text.push_str(
        "[idempotency.charge]\narguments = [\"what\"]\n[idempotency.refund]\narguments = [\"what\"]\n\
         [compensate.put]\ntool = \"unput\"\narguments = { what = \"{what}\" }\n\
         [compensate.pay]\ntool = \"unpay\"\narguments = { what = \"{what}\" }\n\
         [unknown.send]\nthen = \"ask\"\n\
         [fallback.\"tool:flaky\"]\nqueue = \"1h\"\n[policies.\"model:quiet\"]\n\
         retry = { max_retry_after = \"10ms\" }\n",
    );
    writeln!(
        text,
        "[unknown.ship]\nthen = \"verify\"\nwith = \"{VERIFY}\"\nelse = \"ask\"\n\
         arguments = {{ what = \"ship {{what}}\" }}"
    )
    .expect("grows");
    if drill {
        text.push_str(
            "[chaos]\nallow = true\n[policies.\"tool:flaky\"]\nretry = { max_retries = 0 }\n\
             chaos = { error = 0.67, error_class = \"connection\" }\n",
        );
    }
    std::fs::write(folder.join("steadfast.toml"), text).expect("written");
}
