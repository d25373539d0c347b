//! Lays out an example in a folder: its files are part of the program, its data is generated.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use steadfast_providers::process::{CommandLine, ProcessOwner, RunLimits};
use tokio::time::Instant;

use super::{Exit, output};

/// An example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Example {
    /// Collect, clean, analyse and report on a data file.
    Report,
    /// Apply a list of changes to a git repository, one commit each.
    Refactor,
}

/// Longest that one git command may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of the generated data file.
const ROWS: u64 = 12_000;

macro_rules! files {
    ($folder:literal: $($name:literal),+) => {
        &[$(($name, include_str!(concat!("../../../../examples/", $folder, "/", $name)))),+]
    };
}

impl Example {
    /// Its agent.
    pub(super) const fn agent(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Refactor => "refactor",
        }
    }

    /// What the agent is asked.
    pub(super) const fn input(self) -> &'static str {
        match self {
            Self::Report => "Write the sales report.",
            Self::Refactor => "Apply the changes.",
        }
    }

    /// Where its result is.
    pub(super) fn result(self, folder: &Path) -> String {
        match self {
            Self::Report => folder.join("work/report.md").display().to_string(),
            Self::Refactor => format!("`git -C {} log --oneline`", folder.join("repo").display()),
        }
    }

    const fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Report => files!(
                "report":
                "steadfast.toml", "model.toml", "instructions.md", "collect.awk", "clean.awk",
                "analyse.awk", "README.md"
            ),
            Self::Refactor => {
                files!("refactor": "steadfast.toml", "model.toml", "instructions.md", "README.md")
            }
        }
    }
}

pub(super) async fn init(example: Example, folder: Option<PathBuf>) -> anyhow::Result<Exit> {
    let folder = folder.unwrap_or_else(|| PathBuf::from(example.agent()));
    lay_out(example, &folder).await?;
    let place = folder.display();
    output::talk(&format!(
        "laid out in {place}; next: `steadfast run {} --config {place}/steadfast.toml`",
        example.agent()
    ));
    Ok(Exit::Done)
}

/// Writes the example's files and makes its data. Refuses a folder that holds anything.
pub(super) async fn lay_out(example: Example, folder: &Path) -> anyhow::Result<()> {
    let occupied = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        bail!("{} is not empty: name another folder", folder.display());
    }
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let parent = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        parent
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    for (name, text) in example.files() {
        write(name, text)?;
    }
    match example {
        Example::Report => {
            std::fs::create_dir_all(folder.join("work"))?;
            write("data/sales.csv", &sales())
        }
        Example::Refactor => {
            for name in MODULES {
                let text = format!("def {name}(value):\n    return value.strip().lower()\n");
                write(&format!("repo/src/{name}.py"), &text)?;
            }
            make_repository(&folder.join("repo")).await
        }
    }
}

/// The modules of the repository to be refactored; `model.toml` changes each.
const MODULES: [&str; 8] =
    ["parser", "lexer", "config", "report", "store", "cache", "client", "server"];

async fn make_repository(repo: &Path) -> anyhow::Result<()> {
    let owner = ProcessOwner::new(&format!("init-{}", std::process::id()));
    let commands: [&[&str]; 3] = [
        &["init", "--quiet", "--initial-branch=main"],
        &["add", "."],
        &["commit", "--quiet", "-m", "Begin"],
    ];
    for arguments in commands {
        let mut command = CommandLine {
            program: "git".to_owned(),
            args: arguments.iter().map(|text| (*text).to_owned()).collect(),
            env: Vec::new(),
            cwd: Some(repo.to_owned()),
        };
        for kind in ["AUTHOR", "COMMITTER"] {
            command.env.push((format!("GIT_{kind}_NAME"), "Refactoring example".to_owned()));
            command.env.push((format!("GIT_{kind}_EMAIL"), "refactor@localhost".to_owned()));
        }
        let limits = RunLimits {
            deadline: Instant::now() + GIT_TIMEOUT,
            output_bytes: 4096,
            after_term: Duration::from_secs(1),
        };
        let finished = owner
            .run(&command, None, limits)
            .await
            .context("cannot run `git`: the refactor example needs it; install git")?;
        if !finished.status.is_some_and(|status| status.success()) {
            let said = finished.stderr.text();
            bail!("`git {}` failed in {}: {said}", arguments.join(" "), repo.display());
        }
    }
    Ok(())
}

/// A data file with the flaws of real ones: missing and impossible values, duplicates. The same on
/// every machine: the numbers come from a linear congruential generator (Knuth's MMIX constants).
fn sales() -> String {
    let mut state: u64 = 20_261_120;
    let mut next = |bound: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let regions = ["North", "South", "East", "West"];
    let products = ["bolt", "nut", "screw", "washer", "rivet"];
    let mut text = String::from("order,date,region,product,quantity,price_cents\n");
    for row in 0..ROWS {
        let order = if row > 0 && next(50) == 0 { row - 1 } else { row };
        let (month, day) = (next(12) + 1, next(28) + 1);
        let region = regions[usize::try_from(next(4)).unwrap_or(0)];
        let product = products[usize::try_from(next(5)).unwrap_or(0)];
        let quantity = match next(60) {
            0 => String::new(),
            1 => "-1".to_owned(),
            _ => (next(20) + 1).to_string(),
        };
        let price = if next(80) == 0 { String::new() } else { (next(49_900) + 100).to_string() };
        let line = writeln!(
            text,
            "S{order:05},2026-{month:02}-{day:02},{region},{product},{quantity},{price}"
        );
        debug_assert!(line.is_ok(), "writing to a string does not fail");
    }
    text
}
