//! A small MCP server for tests: newline-delimited JSON-RPC by hand, 2025 era.
//!
//! `mcp_fixture [MODE] [COUNTER_FILE]`, with MODE one of `normal`, `ignore-eof`, `asks` (requests to the
//! client), `storm` (notifications), `garbage` (broken lines), `silent` (never answers), `dies` (leaves at
//! once with words on stderr), `strict` (leaves at any first request but `initialize`).

use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_else(|| "normal".to_owned());
    let counter = args.next();
    if mode == "dies" {
        let secret = std::env::var_os("FIXTURE_SECRET").unwrap_or_default();
        writeln!(io::stderr(), "cannot log in with {}", secret.to_string_lossy())?;
        return Ok(());
    }
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut server = Server { mode, counter, lines, slow: Vec::new(), answers: Vec::new() };
    server.serve()?;
    if server.mode == "ignore-eof" {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

struct Server {
    mode: String,
    counter: Option<String>,
    lines: Receiver<String>,
    /// Requests that are answered only when cancelled, and then too late.
    slow: Vec<Value>,
    /// What the client answered to our requests.
    answers: Vec<Value>,
}

impl Server {
    fn serve(&mut self) -> io::Result<()> {
        let mut first = true;
        while let Ok(line) = self.lines.recv() {
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            if self.mode == "silent" {
                continue;
            }
            if self.mode == "strict" && first && message["method"] != "initialize" {
                return Ok(());
            }
            first = false;
            if !self.handle(&message)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False to leave at once.
    fn handle(&mut self, message: &Value) -> io::Result<bool> {
        let id = message["id"].clone();
        match message["method"].as_str() {
            Some("initialize") => reply(
                &id,
                &json!({
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": "fixture", "version": "1"}
                }),
            )?,
            Some("notifications/initialized") => self.greeted()?,
            Some("notifications/cancelled") => {
                let cancelled = &message["params"]["requestId"];
                self.count(&format!("cancelled {cancelled}"))?;
                if self.slow.contains(cancelled) {
                    reply(cancelled, &text("too late", false))?;
                }
            }
            Some("tools/list") => list(&id, &message["params"]["cursor"])?,
            Some("tools/call") => return self.call(&id, &message["params"]),
            Some(_) if id.is_null() => {}
            Some(other) => send(&json!({
                "jsonrpc": "2.0", "id": id,
                "error": {"code": -32601, "message": format!("no method {other}")}
            }))?,
            None => self.answers.push(message.clone()),
        }
        Ok(true)
    }

    fn greeted(&self) -> io::Result<()> {
        match self.mode.as_str() {
            "asks" => {
                send(&json!({"jsonrpc": "2.0", "id": "r", "method": "roots/list"}))?;
                send(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}))?;
                send(&json!({"jsonrpc": "2.0", "id": "x", "method": "no/such"}))
            }
            "storm" => (0..2000).try_for_each(|_| {
                send(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
            }),
            "garbage" => {
                let mut out = io::stdout().lock();
                writeln!(out, "this is not JSON\n{{\"jsonrpc\": \"2.0\", \n\n[]")?;
                out.flush()
            }
            _ => Ok(()),
        }
    }

    fn call(&mut self, id: &Value, params: &Value) -> io::Result<bool> {
        let arguments = &params["arguments"];
        let name = params["name"].as_str().unwrap_or_default();
        self.count(name)?;
        match name {
            "echo" => reply(id, &text(arguments["text"].as_str().unwrap_or_default(), false))?,
            "add" => {
                let sum = arguments["a"].as_i64().zip(arguments["b"].as_i64()).map(|(a, b)| a + b);
                reply(id, &json!({"content": [], "structuredContent": {"sum": sum}}))?;
            }
            "fail" => reply(id, &text("it went wrong", true))?,
            "slow" | "slow_write" => self.slow.push(id.clone()),
            "big" => reply(id, &text(&"x".repeat(1_000_000), false))?,
            "exit" | "exit_read" => {
                writeln!(io::stderr(), "leaving now")?;
                return Ok(false);
            }
            "key" => {
                let key = &params["_meta"]["steadfast/idempotency-key"];
                reply(id, &text(key.as_str().unwrap_or("none"), false))?;
            }
            "answers" => reply(id, &text(&json!(self.answers).to_string(), false))?,
            other => send(&json!({
                "jsonrpc": "2.0", "id": id,
                "error": {"code": -32602, "message": format!("no tool {other}")}
            }))?,
        }
        Ok(true)
    }

    fn count(&self, what: &str) -> io::Result<()> {
        let Some(path) = &self.counter else { return Ok(()) };
        writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{what}")
    }
}

/// Two pages.
fn list(id: &Value, cursor: &Value) -> io::Result<()> {
    let tool = |name: &str, hints: Value| {
        json!({
            "name": name, "description": name,
            "inputSchema": {"type": "object"}, "annotations": hints
        })
    };
    let read = json!({"readOnlyHint": true});
    if cursor.is_null() {
        let add = json!({
            "name": "add",
            "description": "adds",
            "inputSchema": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"]
            },
            "annotations": read
        });
        let tools = [tool("echo", read), add, tool("fail", json!({}))];
        return reply(id, &json!({"tools": tools, "nextCursor": "2"}));
    }
    let tools = [
        tool("slow", read.clone()),
        tool("slow_write", json!({})),
        tool("big", read.clone()),
        tool("exit", json!({"idempotentHint": true})),
        tool("exit_read", read.clone()),
        tool("answers", read),
        tool("gone", json!({})),
        tool("key", json!({"idempotentHint": true})),
    ];
    reply(id, &json!({"tools": tools}))
}

fn text(text: &str, is_error: bool) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": is_error})
}

fn reply(id: &Value, result: &Value) -> io::Result<()> {
    send(&json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn send(message: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{message}")?;
    out.flush()
}
