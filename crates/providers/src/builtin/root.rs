//! A directory that nothing opened through it can leave.
//!
//! Each component of a path is opened relative to the descriptor of the one before, with `O_NOFOLLOW`, and
//! `..` is refused. So no symlink at any place is followed, and renaming directories meanwhile changes
//! nothing: a descriptor names a directory, not a path. This holds on every Unix; Linux' `openat2` would do
//! the same in one call, but needs a second way for kernels and sandboxes without it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How the names of half-written files begin; they are not listed.
const TEMPORARY: &str = ".steadfast-tmp-";

static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A directory, opened once: moving or replacing it later does not change what this stands for.
#[derive(Clone, Debug)]
pub struct Root {
    directory: Arc<OwnedFd>,
}

pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: FileType,
}

impl Root {
    /// Opens it. Symlinks on the way to the root itself are followed.
    ///
    /// # Errors
    /// If it is not there, not a directory, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory: Arc::new(directory) })
    }

    /// Opens a regular file for reading. Never waits, not even for a named pipe.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        let (parents, name) = split(path)?;
        let parent = self.walk(&parents, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&*parent, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(file)
    }

    /// Replaces a file in one step, or creates it and the directories above it. After a crash it is the old
    /// one or the new one, and a temporary file may be left.
    pub(super) fn replace_file(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let (parents, name) = split(path)?;
        let parent = self.walk(&parents, true)?;
        let mode = match rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Mode::from_raw_mode(stat.st_mode)
            }
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is not a regular file",
                ));
            }
            Err(Errno::NOENT) => Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH,
            Err(error) => return Err(error.into()),
        };
        let (temporary, mut file) = create_temporary(&parent, mode)?;
        let written = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(rustix::fs::renameat(&*parent, &*temporary, &*parent, name)?))
            .and_then(|()| Ok(rustix::fs::fsync(&*parent)?));
        if written.is_err()
            && let Err(error) = rustix::fs::unlinkat(&*parent, &*temporary, AtFlags::empty())
            && error != Errno::NOENT
        {
            tracing::warn!(file = temporary, %error, "cannot remove a half-written file");
        }
        written
    }

    /// The entries of a directory, sorted by name; at most `limit`, and whether there are more.
    pub(super) fn entries(&self, path: &str, limit: usize) -> io::Result<(Vec<Entry>, bool)> {
        let directory = self.walk(&components(path)?, false)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&*directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." || name.starts_with(TEMPORARY) {
                continue;
            }
            if entries.len() == limit {
                entries.sort_by(|a: &Entry, b| a.name.cmp(&b.name));
                return Ok((entries, true));
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            entries.push(Entry { name: name.to_owned(), kind });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((entries, false))
    }

    fn walk(&self, names: &[&str], create: bool) -> io::Result<Arc<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut current = Arc::clone(&self.directory);
        for name in names {
            if create {
                match rustix::fs::mkdirat(&*current, *name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            current = Arc::new(rustix::fs::openat(&*current, *name, flags, Mode::empty())?);
        }
        // A descriptor of its own: reading a directory moves a position that all clones share.
        if names.is_empty() {
            current = Arc::new(rustix::fs::openat(&*current, ".", flags, Mode::empty())?);
        }
        Ok(current)
    }
}

fn create_temporary(parent: &OwnedFd, mode: Mode) -> io::Result<(String, File)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{number}", std::process::id());
        match rustix::fs::openat(parent, &*name, flags, mode) {
            Ok(file) => return Ok((name, File::from(file))),
            // Left by an earlier process of the same number.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn components(path: &str) -> io::Result<Vec<&str>> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
    if path.starts_with('/') {
        return refuse("the path must be relative to the root");
    }
    if path.contains('\0') {
        return refuse("the path holds a zero byte");
    }
    let names: Vec<&str> =
        path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return refuse("`..` is not allowed");
    }
    Ok(names)
}

fn split(path: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut names = components(path)?;
    match names.pop() {
        Some(name) => Ok((names, name)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")),
    }
}
