use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Writes a file so that nobody ever sees half of it: into a new file in the same folder, which then
/// takes over the name. When `write` fails, nothing is left behind and an older file stays as it was.
///
/// # Errors
/// Those of `write` and of the operating system; `InvalidInput` when `path` is there and no regular file.
pub fn replace_file<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);

    let bad = |what| E::from(io::Error::new(io::ErrorKind::InvalidInput, what));
    let name = path.file_name().ok_or_else(|| bad("not a file name"))?;
    // Renaming over a device or a FIFO would put a plain file in its place.
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(bad("not a regular file"));
    }
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
    let temporary = path.with_file_name(temporary);
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let mut writer = BufWriter::new(file);
    let done = write(&mut writer).and_then(|()| {
        writer.flush()?;
        fs::rename(&temporary, path)?;
        Ok(())
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace_file(&path, |w| w.write_all(b"old")).unwrap();
        let failed = replace_file(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace_file(dir.path(), |_| Ok::<(), io::Error>(())).is_err());
    }
}
