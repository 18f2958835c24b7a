use super::*;
use crate::DType;
use std::io::Write;

fn npy(t: &Tensor) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(&mut out, t).unwrap();
    out
}

fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn message(bytes: &[u8], limit: u64) -> String {
    parse_npz("a.npz", bytes, limit).unwrap_err().to_string()
}

#[test]
fn names_and_order_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npz");
    let a = Tensor::from_vec([2, 1], vec![1.5f32, -0.0]).unwrap();
    let b = Tensor::from_strings([2], vec!["é".into(), "".into()]).unwrap();
    let c = Tensor::zeros(DType::Bool, [0, 3]).unwrap();
    let tensors = [("z/conv:0", &a), ("", &b), ("größe", &c), ("/abs", &a)];
    write_npz(&path, &tensors).unwrap();
    let first = std::fs::read(&path).unwrap();
    let back = read_npz(&path).unwrap();
    assert_eq!(back.len(), tensors.len());
    for ((name, t), (key, u)) in tensors.iter().zip(&back) {
        assert!(name == key && t.same_bits(u), "{name} {key}");
    }
    write_npz(&path, &tensors).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    write_npz(&path, &[]).unwrap();
    assert!(read_npz(&path).unwrap().is_empty());
}

#[test]
fn both_methods_are_read() {
    let t = Tensor::from_i64s(DType::I64, [1000], 0..1000).unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let back = parse_npz("a", &archive(&[("x.npy", &npy(&t))], method), 1 << 20).unwrap();
        assert!(back[0].0 == "x" && back[0].1.same_bits(&t));
    }
}

#[test]
fn the_same_name_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let t = Tensor::scalar(1u8);
    assert!(write_npz(dir.path().join("a.npz"), &[("x", &t), ("x", &t)]).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mut bytes = archive(&[("xa.npy", &npy(&t)), ("xb.npy", &npy(&t))], CompressionMethod::Stored);
    for i in 0..bytes.len() - 6 {
        if &bytes[i..i + 6] == b"xb.npy" {
            bytes[i + 1] = b'a';
        }
    }
    assert!(message(&bytes, 1 << 20).contains("same name"));
}

#[test]
fn bombs_stop_at_the_limit() {
    let t = Tensor::zeros(DType::U8, [4 << 20]).unwrap();
    let bomb = archive(&[("x.npy", &npy(&t))], CompressionMethod::Deflated);
    assert!(bomb.len() < 8192 && parse_npz("a", &bomb, 5 << 20).is_ok());
    assert!(message(&bomb, 4 << 20).contains("limit"));

    // Declared sizes are in the local and in the central header; lie in both.
    let size = (npy(&t).len() as u32).to_le_bytes();
    for lie in [5u32, 0, u32::MAX - 1] {
        let mut bytes = bomb.clone();
        let mut hits = 0;
        for i in 0..bytes.len() - 4 {
            if bytes[i..i + 4] == size {
                bytes[i..i + 4].copy_from_slice(&lie.to_le_bytes());
                hits += 1;
            }
        }
        assert!(hits >= 2);
        assert!(parse_npz("a", &bytes, 8 << 30).is_err(), "{lie}");
    }
}

#[test]
fn damage_is_told() {
    let t = Tensor::scalar(1u8);
    let whole = archive(&[("x.npy", &npy(&t))], CompressionMethod::Stored);
    for end in 0..whole.len() {
        assert!(parse_npz("a", &whole[..end], 1 << 20).is_err(), "{end}");
    }
    let mut flipped = whole.clone();
    let at = whole.windows(6).position(|w| w == b"\x93NUMPY").unwrap() + npy(&t).len() - 1;
    flipped[at] ^= 1;
    assert!(parse_npz("a", &flipped, 1 << 20).is_err(), "a wrong checksum");
    assert!(
        message(&archive(&[("readme.txt", b"hi")], CompressionMethod::Stored), 99).contains("readme.txt")
    );
    assert!(message(&archive(&[("x.npy", b"hi")], CompressionMethod::Stored), 99).contains("a.npz:x.npy"));
}

proptest::proptest! {
    #[test]
    fn altered_archives_are_survived(edits in proptest::collection::vec((0usize..400, 0u8..), 1..6), deflate: bool) {
        let t = Tensor::from_i64s(DType::I32, [5], 0..5).unwrap();
        let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let mut bytes = archive(&[("x.npy", &npy(&t)), ("y.npy", &npy(&t))], method);
        for (at, value) in edits {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        if let Ok(back) = parse_npz("a", &bytes, 1 << 20) {
            proptest::prop_assert!(back.iter().map(|(_, t)| t.byte_len()).sum::<usize>() <= 1 << 20);
        }
    }
}
