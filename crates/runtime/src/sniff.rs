/// What a file looks like from its content; names and extensions are never asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// An ONNX model, as far as its first bytes tell.
    Onnx,
    /// A `.mill` model.
    Mill,
    /// A safetensors file of weights.
    Safetensors,
    /// A TensorFlow Lite model, as its identifier says.
    Tflite,
    /// An HDF5 file, as Keras wrote them.
    Hdf5,
    /// A Python pickle.
    Pickle,
    /// A GGUF file.
    Gguf,
    /// A zip archive: PyTorch, Keras and NumPy files are such.
    Zip,
    /// A NumPy array.
    Npy,
    /// A gzip stream.
    Gzip,
    /// A PNG or JPEG image.
    Image,
    /// Text: JSON, XML, a tree model.
    Text,
    /// Nothing at all.
    Empty,
    /// None of these.
    Unknown,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FileKind::Onnx => "ONNX",
            FileKind::Mill => ".mill",
            FileKind::Safetensors => "safetensors",
            FileKind::Tflite => "TensorFlow Lite",
            FileKind::Hdf5 => "HDF5",
            FileKind::Pickle => "pickle",
            FileKind::Gguf => "GGUF",
            FileKind::Zip => "zip",
            FileKind::Npy => "NumPy",
            FileKind::Gzip => "gzip",
            FileKind::Image => "image",
            FileKind::Text => "text",
            FileKind::Empty => "empty",
            FileKind::Unknown => "unknown",
        })
    }
}

impl FileKind {
    /// What the bytes look like.
    pub fn of(bytes: &[u8]) -> FileKind {
        let magic: &[(usize, &[u8], FileKind)] = &[
            (4, b"TFL3", FileKind::Tflite),
            (0, b"\x89HDF\r\n\x1a\n", FileKind::Hdf5),
            (0, b"GGUF", FileKind::Gguf),
            (0, b"PK\x03\x04", FileKind::Zip),
            (0, b"PK\x05\x06", FileKind::Zip),
            (0, b"\x93NUMPY", FileKind::Npy),
            (0, b"\x1f\x8b", FileKind::Gzip),
            (0, b"\x89PNG\r\n", FileKind::Image),
            (0, b"\xff\xd8\xff", FileKind::Image),
        ];
        if bytes.is_empty() {
            return FileKind::Empty;
        }
        for (at, m, kind) in magic {
            if bytes.get(*at..*at + m.len()) == Some(*m) {
                return *kind;
            }
        }
        if bytes[0] == 0x80 && bytes.get(1).is_some_and(|v| (2..=5).contains(v)) {
            return FileKind::Pickle;
        }
        if bytes.get(8) == Some(&b'{') {
            #[cfg(feature = "mill")]
            if tensormill_formats::mill::is_mill(bytes) {
                return FileKind::Mill;
            }
            return FileKind::Safetensors;
        }
        let head = &bytes[..bytes.len().min(512)];
        let printable = |b: &u8| b.is_ascii_graphic() || matches!(b, b' ' | b'\n' | b'\r' | b'\t');
        if head.iter().all(printable) {
            return FileKind::Text;
        }
        // A protobuf message that begins with one of ModelProto's fields: a field number with its wire type.
        const MODEL_TAGS: &[u8] = &[0x08, 0x12, 0x1a, 0x22, 0x28, 0x32, 0x3a, 0x42, 0x72];
        if MODEL_TAGS.contains(&bytes[0]) { FileKind::Onnx } else { FileKind::Unknown }
    }

    /// What the file is, and what to do to have a model that is read here.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            FileKind::Onnx => "an ONNX model; this program was built without the feature `onnx`",
            FileKind::Mill => "a .mill model; this program was built without the feature `mill`",
            FileKind::Safetensors => {
                "a safetensors file: it holds weights and no graph; export the whole model to ONNX"
            }
            FileKind::Tflite => {
                "a TensorFlow Lite model; this program was built without the feature `tflite`"
            }
            FileKind::Hdf5 => "an HDF5 file, perhaps of Keras; export the model to ONNX (tf2onnx)",
            FileKind::Pickle => {
                "a Python pickle, which could run any program and is never opened here; export the model to ONNX"
            }
            FileKind::Gguf => "a GGUF file; export the model to ONNX from where it was trained",
            FileKind::Zip => {
                "a zip archive, perhaps a PyTorch or Keras file; export the model to ONNX (torch.onnx.export)"
            }
            FileKind::Npy => "a NumPy array, not a model; give it as an input",
            FileKind::Gzip => "a gzip stream; unpack it first",
            FileKind::Image => "an image, not a model; give it as an input",
            FileKind::Text => {
                "text, perhaps the description of a model in another format, or a pointer to a large file that was not downloaded"
            }
            FileKind::Empty => "empty",
            FileKind::Unknown => {
                "of a format that is not known here; ONNX, TensorFlow Lite and .mill models are read"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        let cases: &[(&[u8], FileKind)] = &[
            (b"", FileKind::Empty),
            (b"\x08\x0a\x12\x00", FileKind::Onnx),
            (b"\x1c\0\0\0TFL3", FileKind::Tflite),
            (b"\x89HDF\r\n\x1a\n", FileKind::Hdf5),
            (b"\x80\x04\x95", FileKind::Pickle),
            (b"GGUF\x03", FileKind::Gguf),
            (b"PK\x03\x04", FileKind::Zip),
            (b"\x93NUMPY\x01", FileKind::Npy),
            (b"{\"a\": 1}\n", FileKind::Text),
            (b"\x02\0\0\0\0\0\0\0{}", FileKind::Safetensors),
            (b"\xfe\xfe", FileKind::Unknown),
        ];
        for (bytes, kind) in cases {
            assert_eq!(FileKind::of(bytes), *kind, "{bytes:?}");
            assert!(!kind.advice().is_empty());
        }
    }
}
