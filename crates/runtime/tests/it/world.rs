//! A model that plays a list of answers, a tool that counts its effects, and a store to run on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use steadfast_guard::{Effect, ErrorClass};
use steadfast_providers::model::{
    FinishReason, Model, ModelAnswer, ModelDelta, ModelError, ModelRequest, ModelStream,
    TokenCount, ToolCall, ToolDefinition, Usage,
};
use steadfast_providers::tool::{Progress, Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};
use steadfast_runtime::{AgentSpec, Catalog, CatalogBuilder, Runtime, RuntimeOptions};
use steadfast_store::{MemoryStore, Store};
use tokio::sync::Notify;

/// What a scripted model does when it is asked.
pub(crate) enum Says {
    Text(&'static str),
    Calls(Vec<(&'static str, &'static str)>),
    CutCalls(Vec<(&'static str, &'static str)>),
    /// One call with this id, of this tool.
    Named(&'static str, &'static str),
    Fails(ErrorClass, Option<Duration>),
}

pub(crate) struct ScriptedModel {
    script: Mutex<VecDeque<Says>>,
    pub(crate) requests: Mutex<Vec<ModelRequest>>,
}

impl ScriptedModel {
    pub(crate) fn new(script: Vec<Says>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into()), requests: Mutex::new(Vec::new()) })
    }

    fn next(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        self.requests.lock().push(request.clone());
        let says = self.script.lock().pop_front();
        let number = self.requests.lock().len();
        let calls = |calls: Vec<(&str, &str)>| {
            let ids = calls.into_iter().enumerate();
            ids.map(|(index, (name, arguments))| ToolCall {
                id: format!("c{number}-{index}"),
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            })
            .collect::<Vec<_>>()
        };
        let (text, tool_calls, finish) = match says {
            Some(Says::Text(text)) => (text, vec![], FinishReason::Stop),
            Some(Says::Calls(list)) => ("", calls(list), FinishReason::ToolCalls),
            Some(Says::Named(id, name)) => {
                let (id, name) = (id.to_owned(), name.to_owned());
                let call = ToolCall { id, name, arguments: "{}".to_owned() };
                ("", vec![call], FinishReason::ToolCalls)
            }
            Some(Says::CutCalls(list)) => ("", calls(list), FinishReason::Length),
            Some(Says::Fails(class, retry_after)) => {
                return Err(ModelError {
                    class,
                    model: "test/scripted".to_owned(),
                    status: None,
                    message: "scripted failure".to_owned(),
                    retry_after,
                });
            }
            None => panic!("the model was asked more often than the script says"),
        };
        Ok(ModelAnswer {
            text: text.to_owned(),
            tool_calls,
            finish,
            usage: Usage { input_uncached: Some(10), output: Some(5), ..Usage::default() },
            model: "scripted".to_owned(),
        })
    }
}

#[async_trait]
impl Model for ScriptedModel {
    fn name(&self) -> &str {
        "test/scripted"
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelAnswer, ModelError> {
        self.next(request)
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let answer = self.next(request)?;
        let deltas =
            [Ok(ModelDelta::Text(answer.text.clone())), Ok(ModelDelta::Done(Box::new(answer)))];
        Ok(stream::iter(deltas).boxed())
    }

    fn count_tokens(&self, _: &ModelRequest) -> TokenCount {
        TokenCount { tokens: 1, exact: false }
    }
}

/// A tool that counts how often it took effect, and can be held up in the middle.
pub(crate) struct CountingTool {
    spec: ToolSpec,
    pub(crate) effects: AtomicUsize,
    pub(crate) keys: Mutex<Vec<String>>,
    pub(crate) arguments: Mutex<Vec<serde_json::Value>>,
    pub(crate) entered: Notify,
    /// What the next calls meet, instead of an effect.
    pub(crate) broken: Mutex<Option<ErrorClass>>,
    pub(crate) says: Mutex<ToolOutput>,
    /// Lets one held call of a gated tool end.
    pub(crate) let_go: Notify,
    holds: Holds,
}

/// What a call does after it has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Never,
    ForEver,
    /// Until it is let go.
    Gated,
    /// For a tenth of a second.
    Slow,
}

impl CountingTool {
    pub(crate) fn new(name: &str, effect: Effect) -> Arc<Self> {
        Self::build(name, effect, Holds::Never)
    }

    /// A tool that takes effect and answers once it is let go.
    pub(crate) fn gated(name: &str, effect: Effect) -> Arc<Self> {
        Self::build(name, effect, Holds::Gated)
    }

    /// A tool that takes effect and answers a tenth of a second later.
    pub(crate) fn slow(name: &str, effect: Effect) -> Arc<Self> {
        Self::build(name, effect, Holds::Slow)
    }

    /// A tool that takes effect and then never answers.
    pub(crate) fn stuck(name: &str, effect: Effect) -> Arc<Self> {
        Self::build(name, effect, Holds::ForEver)
    }

    fn build(name: &str, effect: Effect, holds: Holds) -> Arc<Self> {
        let schema = json!({
            "type": "object",
            "properties": { "n": { "type": "integer" }, "message": { "type": "string" } },
            "additionalProperties": false,
        });
        let definition =
            ToolDefinition { name: name.to_owned(), description: "counts".to_owned(), schema };
        let spec = ToolSpec {
            definition,
            effect,
            timeout: Duration::from_secs(30),
            dependency: format!("tool:{name}"),
        };
        Arc::new(Self {
            spec,
            effects: AtomicUsize::new(0),
            keys: Mutex::new(Vec::new()),
            arguments: Mutex::new(Vec::new()),
            entered: Notify::new(),
            broken: Mutex::new(None),
            says: Mutex::new(ToolOutput::text("counted".to_owned())),
            let_go: Notify::new(),
            holds,
        })
    }

    /// From now on it fails like this, or no more.
    pub(crate) fn breaks(&self, class: impl Into<Option<ErrorClass>>) {
        *self.broken.lock() = class.into();
    }

    pub(crate) fn count(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Tool for CountingTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        if let Some(class) = *self.broken.lock() {
            let (tool, message) = (self.spec.definition.name.clone(), "scripted".to_owned());
            return Err(ToolError { class, tool, message, retry_after: None });
        }
        self.effects.fetch_add(1, Ordering::SeqCst);
        self.keys.lock().push(call.idempotency_key);
        self.arguments.lock().push(call.arguments);
        self.entered.notify_one();
        match self.holds {
            Holds::Never => {}
            Holds::ForEver => std::future::pending::<()>().await,
            Holds::Gated => self.let_go.notified().await,
            Holds::Slow => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        let progress = Progress { step: 1, total: 2, description: "counted".to_owned() };
        Ok(ToolOutput { progress: Some(progress), ..self.says.lock().clone() })
    }
}

/// A runtime on a store, with an agent `worker` that may call every tool given.
pub(crate) async fn start(
    store: &Arc<MemoryStore>,
    model: &Arc<ScriptedModel>,
    tools: &[&Arc<CountingTool>],
    adjust: impl FnOnce(&mut AgentSpec),
) -> Runtime {
    start_with(store, model, tools, adjust, |builder| builder).await
}

/// The same, with something added to its catalog.
pub(crate) async fn start_with(
    store: &Arc<MemoryStore>,
    model: &Arc<ScriptedModel>,
    tools: &[&Arc<CountingTool>],
    adjust: impl FnOnce(&mut AgentSpec),
    extend: impl FnOnce(CatalogBuilder) -> CatalogBuilder,
) -> Runtime {
    let mut spec = AgentSpec::new("m");
    spec.tools = tools.iter().map(|tool| tool.spec.definition.name.clone()).collect();
    adjust(&mut spec);
    let mut builder = Catalog::builder()
        .model("m", Arc::<ScriptedModel>::clone(model) as Arc<dyn Model>, true)
        .agent("worker", spec);
    for tool in tools {
        builder = builder.tool(Arc::<CountingTool>::clone(tool) as Arc<dyn Tool>);
    }
    let catalog = extend(builder).build().expect("the catalog fits together");
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    let options = RuntimeOptions {
        lease_ttl: Duration::from_secs(15),
        drain_timeout: Duration::from_secs(5),
        ..RuntimeOptions::default()
    };
    Runtime::start(store, catalog, options).await.expect("the runtime starts")
}
