use crate::Error;
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// Where a model comes from: a path, bytes, or bytes in the program itself.
#[derive(Debug, Clone)]
pub struct Source(pub(crate) Origin);

#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Path(PathBuf),
    Bytes(Bytes),
}

macro_rules! paths {
    ($($t:ty),*) => {$(impl From<$t> for Source {
        fn from(path: $t) -> Source { Source(Origin::Path(path.into())) }
    })*};
}
paths!(&str, &String, String, &Path, &PathBuf, PathBuf);

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Source {
        Source(Origin::Bytes(bytes.into()))
    }
}

impl From<&'static [u8]> for Source {
    /// Weights stay where they are: in the program.
    fn from(bytes: &'static [u8]) -> Source {
        Source(Origin::Bytes(Bytes::from_static(bytes)))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Source {
    fn from(bytes: &'static [u8; N]) -> Source {
        Source::from(&bytes[..])
    }
}

/// Maps a model file; what is no regular file is refused before it is opened, as opening may block.
pub(crate) fn map(path: &Path) -> Result<Bytes, Error> {
    let error = |what: String| Error::File { path: path.to_owned(), what };
    let meta = std::fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if meta.is_dir() {
        return Err(error("is a folder; give the path of the model file in it".into()));
    }
    if !meta.is_file() {
        return Err(error(
            "is not a regular file (a pipe or a device); save the model to a file first".into(),
        ));
    }
    tensormill_tensor::map_file(path).map_err(|e| error(e.to_string()))
}
