//! `read_file`, `write_file`, `list_files` below a root.

use std::io::{self, Read, Seek, SeekFrom};

use async_trait::async_trait;
use rustix::fs::FileType;
use serde_json::{Value, json};
use steadfast_guard::{Effect, ErrorClass};

use super::Root;
use crate::tool::{Tool, ToolError, ToolInvocation, ToolOutput, ToolSpec};

/// Limits of the file tools.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    /// The most that one read returns; a longer file is read in pages. Default 64 KiB.
    pub read_bytes: usize,
    /// The largest file that may be written. Default 1 MiB.
    pub write_bytes: usize,
    /// The most entries that a listing shows. Default 1000.
    pub entries: usize,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self { read_bytes: 64 * 1024, write_bytes: 1024 * 1024, entries: 1000 }
    }
}

/// `read_file`: UTF-8 text, in pages.
#[derive(Debug)]
pub struct ReadFile {
    spec: ToolSpec,
    root: Root,
    limits: FileLimits,
}

/// `write_file`: the whole file in one step. A dropped call may still take effect, whole.
#[derive(Debug)]
pub struct WriteFile {
    spec: ToolSpec,
    root: Root,
    limits: FileLimits,
}

/// `list_files`: a directory, or everything below it.
#[derive(Debug)]
pub struct ListFiles {
    spec: ToolSpec,
    root: Root,
    limits: FileLimits,
}

impl ReadFile {
    /// The tool for files below `root`.
    #[must_use]
    pub fn new(root: Root, limits: FileLimits) -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "relative to the root"},
                "offset": {"type": "integer", "minimum": 0, "description": "first byte, default 0"},
                "limit": {"type": "integer", "minimum": 4, "description": "most bytes to return"}
            },
            "required": ["path"],
            "additionalProperties": false
        });
        let description = "Read a text file. A long file comes in pages; go on with `offset`.";
        Self { spec: super::spec("read_file", description, schema, Effect::Read), root, limits }
    }
}

impl WriteFile {
    /// The tool for files below `root`.
    #[must_use]
    pub fn new(root: Root, limits: FileLimits) -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "relative to the root"},
                "content": {"type": "string", "description": "the whole new content"}
            },
            "required": ["path", "content"],
            "additionalProperties": false
        });
        let description = "Write a text file: create it, or replace its whole content.";
        let spec = super::spec("write_file", description, schema, Effect::Idempotent);
        Self { spec, root, limits }
    }
}

impl ListFiles {
    /// The tool for files below `root`.
    #[must_use]
    pub fn new(root: Root, limits: FileLimits) -> Self {
        let schema = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "relative to the root, default the root"},
                "recursive": {"type": "boolean", "description": "everything below, default false"}
            },
            "additionalProperties": false
        });
        let description = "List a directory. Directories end in `/`, links in `@`.";
        Self { spec: super::spec("list_files", description, schema, Effect::Read), root, limits }
    }
}

#[async_trait]
impl Tool for ReadFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let path = super::text_argument(&self.spec, &call.arguments, "path", None)?;
        let number = |key: &str| call.arguments.get(key).and_then(Value::as_u64);
        let offset = number("offset").unwrap_or(0);
        let limit = number("limit")
            .and_then(|limit| usize::try_from(limit).ok())
            .map_or(self.limits.read_bytes, |limit| limit.min(self.limits.read_bytes))
            .max(4);
        let root = self.root.clone();
        blocking(&self.spec, path, move |path| read_page(&root, path, offset, limit)).await
    }
}

#[async_trait]
impl Tool for WriteFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let path = super::text_argument(&self.spec, &call.arguments, "path", None)?;
        let content = super::text_argument(&self.spec, &call.arguments, "content", None)?;
        let limit = self.limits.write_bytes;
        if content.len() > limit {
            return Ok(super::failed(format!(
                "`{path}` was not written: {} bytes are more than the limit of {limit}",
                content.len()
            )));
        }
        let root = self.root.clone();
        blocking(&self.spec, path, move |path| {
            root.replace_file(path, content.as_bytes())?;
            Ok(ToolOutput::text(format!("wrote {} bytes to `{path}`", content.len())))
        })
        .await
    }
}

#[async_trait]
impl Tool for ListFiles {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, call: ToolInvocation) -> Result<ToolOutput, ToolError> {
        let path = super::text_argument(&self.spec, &call.arguments, "path", Some("."))?;
        let recursive = call.arguments.get("recursive").and_then(Value::as_bool).unwrap_or(false);
        let (root, limit) = (self.root.clone(), self.limits.entries);
        blocking(&self.spec, path, move |path| list(&root, path, recursive, limit)).await
    }
}

/// File system calls block, so they run on a thread for that. What the system refuses is told to the model.
async fn blocking(
    spec: &ToolSpec,
    path: String,
    work: impl FnOnce(&str) -> io::Result<ToolOutput> + Send + 'static,
) -> Result<ToolOutput, ToolError> {
    let done = tokio::task::spawn_blocking(move || {
        work(&path).unwrap_or_else(|error| super::failed(explain(&path, &error)))
    });
    done.await.map_err(|error| {
        super::error(spec, ErrorClass::Internal, format!("the file operation broke off: {error}"))
    })
}

fn explain(path: &str, error: &io::Error) -> String {
    let loops = rustix::io::Errno::LOOP.raw_os_error();
    let not_directory = rustix::io::Errno::NOTDIR.raw_os_error();
    match error.raw_os_error() {
        Some(code) if code == loops => {
            format!("`{path}`: a symbolic link on the way is not followed")
        }
        Some(code) if code == not_directory => {
            format!("`{path}`: a part of the path is not a directory (links are not followed)")
        }
        _ if error.kind() == io::ErrorKind::NotFound => format!("`{path}` does not exist"),
        _ => format!("`{path}`: {error}"),
    }
}

fn read_page(root: &Root, path: &str, offset: u64, limit: usize) -> io::Result<ToolOutput> {
    let mut file = root.open_file(path)?;
    let size = file.metadata()?.len();
    if offset > 0 && offset >= size {
        return Ok(super::failed(format!(
            "`{path}` ends at byte {size}; offset {offset} is behind it"
        )));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    // An offset inside a character moves on to the next one; a page never ends inside one.
    let skipped = if offset == 0 {
        0
    } else {
        bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count()
    };
    let start = offset + skipped as u64;
    let bytes = &bytes[skipped..];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && start + (bytes.len() as u64) < size => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => {
            let at = start + error.valid_up_to() as u64;
            return Ok(super::failed(format!("`{path}` is not UTF-8 text (byte {at})")));
        }
    };
    let end = start + text.len() as u64;
    let note = if end < size {
        format!("\n[bytes {start} to {end} of {size}; go on with offset {end}]")
    } else {
        String::new()
    };
    Ok(ToolOutput::text(format!("{text}{note}")))
}

fn list(root: &Root, path: &str, recursive: bool, limit: usize) -> io::Result<ToolOutput> {
    let mut lines = Vec::new();
    let mut cut = false;
    let mut open = vec![path.trim_end_matches('/').to_owned()];
    while let Some(directory) = open.pop() {
        let (entries, more) = match root.entries(&directory, limit) {
            Ok(entries) => entries,
            // Gone meanwhile, or not for us: the rest of the listing is still worth something.
            Err(error) if !lines.is_empty() => {
                lines.push(explain(&directory, &error));
                continue;
            }
            Err(error) => return Err(error),
        };
        cut |= more;
        let mut below = Vec::new();
        for entry in entries {
            if lines.len() == limit {
                cut = true;
                break;
            }
            let full = match directory.as_str() {
                "" | "." => entry.name,
                above => format!("{above}/{}", entry.name),
            };
            match entry.kind {
                FileType::Directory => {
                    lines.push(format!("{full}/"));
                    below.push(full);
                }
                FileType::Symlink => lines.push(format!("{full}@")),
                _ => lines.push(full),
            }
        }
        if recursive && lines.len() < limit {
            open.extend(below.into_iter().rev());
        } else {
            cut |= recursive && !below.is_empty();
        }
    }
    lines.sort();
    if cut {
        lines.push(format!("[cut at {limit} entries; list a directory further down]"));
    }
    if lines.is_empty() {
        lines.push("(empty)".to_owned());
    }
    Ok(ToolOutput::text(lines.join("\n")))
}
