//! Files that a model file names: the one place where such a name becomes an open file.
//!
//! A name in a downloaded model is somebody else's choice, so it may only lead to a plain file inside
//! the model's own folder. Links are refused even when they point back inside: what a link points to
//! can change between the check and the opening.

use crate::text::quoted;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Whether a model may name files beside itself, and where those lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ExternalPolicy {
    /// No file is opened; a model that names one is refused.
    #[default]
    Deny,
    /// Plain files in this folder and below it may be mapped.
    Folder(PathBuf),
}

/// Opens and maps the files that a model names, each once.
#[derive(Debug, Default)]
pub struct ExternalData {
    policy: ExternalPolicy,
    maps: Mutex<BTreeMap<String, Bytes>>,
}

/// Why data outside of a model file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// The model was loaded in a way that allows no other files.
    #[error(
        "data lies in the file {location}, and this model may not open files: load it by its path, \
         or name the folder that its data is in (`ExternalPolicy::Folder`)"
    )]
    Denied {
        /// The name in the model, quoted.
        location: String,
    },
    /// The name is not a relative path that stays below the folder.
    #[error("external data at {location} is refused: {why}")]
    Path {
        /// The name in the model, quoted.
        location: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name leads through a symbolic link, to a file with several names, or to no plain file.
    #[error("external data at {location} is refused: {why}; put a copy of the data into the model's folder")]
    Link {
        /// The name in the model, quoted.
        location: String,
        /// What was found.
        why: &'static str,
    },
    /// The file is not there or cannot be read.
    #[error("external data at {location} cannot be read: {source}")]
    Io {
        /// The name in the model, quoted.
        location: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The range is not inside the file.
    #[error("external data at {location}: {length} bytes from {offset} run past the file's end at {size}")]
    Range {
        /// The name in the model, quoted.
        location: String,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        length: u64,
        /// The file's size.
        size: u64,
    },
}

impl ExternalData {
    /// A resolver under `policy`. Nothing is opened until a model names a file.
    pub fn new(policy: ExternalPolicy) -> Self {
        ExternalData { policy, maps: Mutex::default() }
    }

    /// A resolver that refuses every file: for models that come as bytes.
    pub fn deny() -> Self {
        ExternalData::default()
    }

    /// A resolver for the files in `root` and below it.
    pub fn folder(root: impl Into<PathBuf>) -> Self {
        ExternalData::new(ExternalPolicy::Folder(root.into()))
    }

    /// A resolver for the files beside the model file at `model`, and below its folder.
    pub fn beside(model: &Path) -> Self {
        match model.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => ExternalData::folder(dir),
            _ => ExternalData::folder("."),
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> &ExternalPolicy {
        &self.policy
    }

    /// `length` bytes from `offset` of the file `location`: a range of its map, not a copy.
    ///
    /// # Errors
    /// [`ExternalError`], one variant per reason.
    pub fn slice(&self, location: &str, offset: u64, length: u64) -> Result<Bytes, ExternalError> {
        let map = self.map(location)?;
        let size = map.len() as u64;
        let range = || ExternalError::Range { location: quoted(location), offset, length, size };
        let end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(range)?;
        // Both fit in usize: they are at most the length of a slice.
        Ok(map.slice(offset as usize..end as usize))
    }

    /// The size of the file `location`.
    ///
    /// # Errors
    /// As [`ExternalData::slice`].
    pub fn size(&self, location: &str) -> Result<u64, ExternalError> {
        Ok(self.map(location)?.len() as u64)
    }

    fn map(&self, location: &str) -> Result<Bytes, ExternalError> {
        let ExternalPolicy::Folder(root) = &self.policy else {
            return Err(ExternalError::Denied { location: quoted(location) });
        };
        let parts =
            components(location).map_err(|why| ExternalError::Path { location: quoted(location), why })?;
        let key = parts.join("/");
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(&key) {
            return Ok(map.clone());
        }
        let io = |source| ExternalError::Io { location: quoted(location), source };
        let root = fs::canonicalize(root).map_err(io)?;
        let path = plain_file(&root, &parts).map_err(|found| match found {
            Found::Io(source) => io(source),
            Found::Refused(why) => ExternalError::Link { location: quoted(location), why },
        })?;
        let map = tensormill_tensor::map_file(&path).map_err(io)?;
        maps.insert(key, map.clone());
        Ok(map)
    }
}

/// The folder names and the file name of a relative path, or why it is not one. `.` and empty parts
/// are dropped, so that one file has one name.
fn components(location: &str) -> Result<Vec<&str>, &'static str> {
    let bytes = location.as_bytes();
    if bytes.is_empty() {
        return Err("the path is empty");
    }
    // More than any system opens; a longer path would be copied and compared for nothing.
    if bytes.len() > 4096 {
        return Err("the path is longer than 4096 bytes");
    }
    if bytes.contains(&0) {
        return Err("the path has a NUL character");
    }
    if bytes.contains(&b'\\') {
        return Err("the path has a backslash");
    }
    if bytes[0] == b'/' {
        return Err("the path is absolute");
    }
    if bytes.get(1) == Some(&b':') && bytes[0].is_ascii_alphabetic() {
        return Err("the path names a drive");
    }
    if cfg!(windows) && bytes.contains(&b':') {
        return Err("the path has a colon");
    }
    let parts: Vec<&str> = location.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err("the path has a `..`");
    }
    if parts.is_empty() || location.ends_with('/') {
        return Err("the path names a folder");
    }
    Ok(parts)
}

enum Found {
    Io(std::io::Error),
    Refused(&'static str),
}

/// The path of `parts` below the canonical `root`, when every step is a real folder and the last a
/// plain file with a single name.
fn plain_file(root: &Path, parts: &[&str]) -> Result<PathBuf, Found> {
    let mut path = root.to_path_buf();
    for (i, part) in parts.iter().enumerate() {
        path.push(part);
        let meta = fs::symlink_metadata(&path).map_err(Found::Io)?;
        if meta.is_symlink() {
            return Err(Found::Refused("a symbolic link is on the way"));
        }
        if i + 1 < parts.len() {
            if !meta.is_dir() {
                return Err(Found::Refused("the path leads through a file"));
            }
        } else if !meta.is_file() {
            return Err(Found::Refused("it is not a regular file"));
        } else if link_count(&meta) > 1 {
            return Err(Found::Refused(
                "the file has further hard links, which may lie outside of the folder",
            ));
        }
    }
    // Mounts, junctions and folded names remain: what the system resolves must agree with what was checked.
    if !fs::canonicalize(&path).map_err(Found::Io)?.starts_with(root) {
        return Err(Found::Refused("it lies outside of the model's folder"));
    }
    Ok(path)
}

#[cfg(unix)]
fn link_count(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(meta)
}

#[cfg(not(unix))]
fn link_count(_: &fs::Metadata) -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        fs::create_dir(dir.path().join("model/sub")).unwrap();
        fs::write(dir.path().join("secret"), b"secret").unwrap();
        fs::write(dir.path().join("model/w.bin"), b"0123456789").unwrap();
        fs::write(dir.path().join("model/sub/v.bin"), b"abc").unwrap();
        fs::write(dir.path().join("model/empty"), b"").unwrap();
        dir
    }

    #[test]
    fn ranges_of_plain_files_are_shared() {
        let dir = folder();
        let data = ExternalData::folder(dir.path().join("model"));
        let a = data.slice("w.bin", 2, 3).unwrap();
        let b = data.slice("./w.bin", 2, 8).unwrap();
        assert_eq!((&a[..], &b[..]), (&b"234"[..], &b"23456789"[..]));
        assert_eq!(a.as_ptr(), b.as_ptr(), "one map for both spellings");
        assert_eq!(&data.slice("sub//v.bin", 0, 3).unwrap()[..], b"abc");
        assert!(data.slice("empty", 0, 0).unwrap().is_empty());
        assert_eq!(data.size("w.bin").unwrap(), 10);
    }

    #[test]
    fn ranges_outside_are_refused() {
        let dir = folder();
        let data = ExternalData::folder(dir.path().join("model"));
        for (offset, length) in
            [(0, 11), (11, 0), (10, 1), (u64::MAX, 2), (2, u64::MAX), (u64::MAX, u64::MAX)]
        {
            assert!(matches!(
                data.slice("w.bin", offset, length),
                Err(ExternalError::Range { size: 10, .. })
            ));
        }
        assert!(data.slice("w.bin", 10, 0).unwrap().is_empty());
    }

    #[test]
    fn paths_that_leave_are_refused() {
        let dir = folder();
        let data = ExternalData::folder(dir.path().join("model"));
        let absolute = dir.path().join("secret").to_str().unwrap().to_owned();
        for path in [
            "",
            ".",
            "./",
            "..",
            "../secret",
            "sub/../../secret",
            "sub/..",
            "w.bin\0",
            "sub\\v.bin",
            "C:\\x",
            "c:w.bin",
        ]
        .into_iter()
        .chain([absolute.as_str(), "//host/share", "w.bin/", &"a/".repeat(4000)])
        {
            assert!(matches!(data.slice(path, 0, 1), Err(ExternalError::Path { .. })), "{path:?}");
        }
        assert!(matches!(data.slice("absent", 0, 1), Err(ExternalError::Io { .. })));
        assert!(matches!(data.slice("sub", 0, 1), Err(ExternalError::Link { .. })));
        assert!(matches!(data.slice("w.bin/x", 0, 1), Err(ExternalError::Link { .. })));
        assert!(matches!(ExternalData::deny().slice("w.bin", 0, 1), Err(ExternalError::Denied { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused() {
        use std::os::unix::fs::symlink;
        let dir = folder();
        let model = dir.path().join("model");
        symlink(dir.path().join("secret"), model.join("soft")).unwrap();
        symlink(dir.path(), model.join("up")).unwrap();
        symlink("w.bin", model.join("inside")).unwrap();
        fs::hard_link(dir.path().join("secret"), model.join("hard")).unwrap();
        let data = ExternalData::folder(&model);
        for path in ["soft", "up/secret", "inside", "hard"] {
            assert!(matches!(data.slice(path, 0, 1), Err(ExternalError::Link { .. })), "{path}");
        }
        // The folder itself may be reached through a link: the user chose it, not the model.
        symlink(&model, dir.path().join("alias")).unwrap();
        assert!(ExternalData::folder(dir.path().join("alias")).slice("w.bin", 0, 1).is_ok());
    }
}
