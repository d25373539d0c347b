//! A medium that misbehaves, under real processes: a library between the process and its files (`shim/medium.c`)
//! writes down what is done to them and makes it fail; `disk` tells what a power
//! cut could leave.

pub(crate) mod disk;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SHIM: &str = include_str!("../../shim/medium.c");

/// The library, and what it is told for one process after the other.
pub(crate) struct Medium {
    folder: TempDir,
}

/// What fails while it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No file grows any more, and none is made.
    Full,
    /// Nothing can be changed.
    ReadOnly,
    /// The database file itself cannot be opened for writing.
    FileReadOnly,
    /// Writes fail.
    WriteFails,
    /// Syncs fail.
    SyncFails,
    /// Reads fail.
    ReadFails,
}

impl Trouble {
    /// Every trouble.
    pub(crate) const ALL: [Self; 6] = [
        Self::Full,
        Self::ReadOnly,
        Self::FileReadOnly,
        Self::WriteFails,
        Self::SyncFails,
        Self::ReadFails,
    ];

    /// What the library calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::FileReadOnly => "file-read-only",
            Self::WriteFails => "write-fails",
            Self::SyncFails => "sync-fails",
            Self::ReadFails => "read-fails",
        }
    }
}

impl Medium {
    /// Compiles the library; whoever compiles Rust has a C compiler.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("medium.c");
        std::fs::write(&source, SHIM).expect("written");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("medium.so"))
            .arg(&source)
            .arg("-lpthread")
            .output()
            .expect("a C compiler, `cc`, is needed");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { folder }
    }

    /// Puts the library between a command and the files of the folder `watched`.
    pub(crate) fn under(&self, command: &mut Command, watched: &Path) {
        command
            .env("LD_PRELOAD", self.folder.path().join("medium.so"))
            .env("MEDIUM_FOLDER", watched)
            .env("MEDIUM_LOG", self.log())
            .env("MEDIUM_TROUBLE", self.trouble());
    }

    /// What has been done since the library was compiled, in order.
    pub(crate) fn deeds(&self) -> Vec<disk::Deed> {
        disk::read_log(&std::fs::read(self.log()).expect("a process has run under the library"))
    }

    /// From now on this fails, or nothing any more.
    pub(crate) fn set(&self, trouble: Option<Trouble>) {
        match trouble {
            None => std::fs::remove_file(self.trouble()).expect("there was trouble"),
            Some(trouble) => {
                // In one step: the library must not read half a word.
                let draft = self.folder.path().join("draft");
                std::fs::write(&draft, trouble.word()).expect("written");
                std::fs::rename(draft, self.trouble()).expect("renamed");
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn trouble(&self) -> PathBuf {
        self.folder.path().join("trouble")
    }
}
