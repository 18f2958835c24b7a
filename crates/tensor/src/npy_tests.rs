use super::*;
use crate::{CastOptions, Complex};
use proptest::prelude::*;

fn written(t: &Tensor) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(&mut out, t).unwrap();
    out
}

fn file(header: &str, data: &[u8]) -> Bytes {
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(data);
    Bytes::from(out)
}

fn read(header: &str, data: &[u8]) -> Result<Tensor, TensorError> {
    parse_npy("a.npy", file(header, data))
}

/// Types that NumPy has.
fn known() -> impl Iterator<Item = DType> {
    DType::ALL
        .iter()
        .copied()
        .filter(|d| !(d.is_float() && (d.bits() < 16 || *d == DType::BF16) || (d.is_int() && d.bits() < 8)))
}

#[test]
fn headers_are_those_of_numpy() {
    let bytes = written(&Tensor::from_vec([3], vec![1f32, 2.0, 3.0]).unwrap());
    // What numpy.save writes.
    let expected = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
    assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
    assert_eq!(bytes[10..128], *format!("{expected:117}\n").as_bytes());
    assert_eq!(bytes[128..], [1f32, 2.0, 3.0].map(f32::to_le_bytes).concat());
    assert!(written(&Tensor::scalar(1u8)).windows(11).any(|w| w == b"'shape': ()"));
}

#[test]
fn orders_of_bytes_and_axes() {
    let be = |v: &[i16]| v.iter().flat_map(|x| x.to_be_bytes()).collect::<Vec<_>>();
    // Column-major [2, 3]: 1 3 5 / 2 4 6.
    let t =
        read("{'shape': (2, 3), 'fortran_order': True, 'descr': '>i2'}", &be(&[1, 2, 3, 4, 5, 6])).unwrap();
    assert_eq!((t.shape().dims(), t.to_i64_vec().unwrap()), (&[2, 3][..], vec![1, 3, 5, 2, 4, 6]));
    let t = read("{\"descr\": \"<u1\", 'fortran_order': True, 'shape': (2L, 1, 3L)}\n", &[1, 2, 3, 4, 5, 6])
        .unwrap();
    assert_eq!(t.to_i64_vec().unwrap(), [1, 3, 5, 2, 4, 6]);
    let mut data = 1.5f32.to_be_bytes().to_vec();
    data.extend((-2f32).to_be_bytes());
    let t = read("{'descr': '>c8', 'fortran_order': False, 'shape': (), }", &data).unwrap();
    assert_eq!(t.to_slice::<Complex<f32>>().unwrap()[0], Complex { re: 1.5, im: -2.0 });
    let t = read(
        "{'descr': '>U2', 'fortran_order': False, 'shape': (2,), }",
        b"\0\0\0a\0\x01\xf6\0\0\0\0b\0\0\0\0",
    )
    .unwrap();
    assert_eq!(t.strings().unwrap(), ["a😀", "b"]);
    let t = read("{'descr': '|S3', 'fortran_order': True, 'shape': (2,2), }", b"a\0\0bc\0def\0\0\0").unwrap();
    assert_eq!(t.strings().unwrap(), ["a", "def", "bc", ""]);
}

#[test]
fn damage_is_told() {
    for (header, data) in [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 8),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999,), }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': 1, }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1", 8),
        ("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,), }", 8),
        ("{'descr': '<f8', 'shape': (1,), }", 8),
        ("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}", 8),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)} + 1", 8),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '|O8', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }", 3),
        ("{'descr': '<é4', 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': 'é', 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': '', 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (1099511627776,), }", 0),
        ("{'descr': '<U9223372036854775807', 'fortran_order': False, 'shape': (1,), }", 0),
        ("{'descr': '<U18446744073709551616', 'fortran_order': False, 'shape': (1,), }", 0),
        ("", 0),
        ("{", 0),
        ("{}", 0),
    ] {
        let error = read(header, &vec![0; data]);
        assert!(
            matches!(&error, Err(TensorError::File { path, .. }) if path == "a.npy"),
            "{header}: {error:?}"
        );
    }
    let deep = "(".repeat(60_000);
    assert!(read(&deep, &[]).is_err());
    let many = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({})}}", "1,".repeat(65));
    assert!(read(&many, &[0; 4]).is_err());
    assert!(read("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", &[0, 0xd8, 0, 0]).is_err());
    assert!(read("{'descr': '|S1', 'fortran_order': False, 'shape': (1,), }", &[0xff]).is_err());
    assert!(parse_npy("x", Bytes::from_static(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}")).is_err());
    assert!(parse_npy("x", Bytes::from_static(b"\x93NUMPY\x09\x00\x00\x00")).is_err());
}

#[test]
fn files_cut_anywhere_are_refused() {
    let whole = Bytes::from(written(&Tensor::from_vec([2, 2], vec![1i32, 2, 3, 4]).unwrap()));
    for end in 0..whole.len() {
        assert!(parse_npy("a", whole.slice(..end)).is_err(), "{end}");
    }
    assert!(parse_npy("a", whole).is_ok());
}

#[test]
fn what_numpy_lacks_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    for d in DType::ALL.iter().filter(|&&d| !known().any(|k| k == d)) {
        assert!(write_npy(&path, &Tensor::zeros(*d, [2]).unwrap()).is_err(), "{d}");
    }
    assert!(write_npy(&path, &Tensor::from_strings([1], vec!["a\0".into()]).unwrap()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(read_npy(&path).is_err() && read_npy(dir.path()).is_err());
}

proptest! {
    #[test]
    fn what_is_written_reads_back(dims in prop::collection::vec(0usize..5, 0..4), seed: u64, text in prop::collection::vec("[^\0]{0,5}", 64)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let n: usize = dims.iter().product();
        for d in known() {
            let t = if d == DType::Str {
                Tensor::from_strings(dims.clone(), text[..n].to_vec()).unwrap()
            } else {
                let values = (0..n as u64).map(|i| seed.wrapping_mul(i * 2 + 1) as i64 >> 20);
                let t = Tensor::from_i64s(if d.is_complex() { DType::F64 } else { d }, dims.clone(), values).unwrap();
                t.cast(d, CastOptions::default()).unwrap()
            };
            write_npy(&path, &t).unwrap();
            prop_assert!(read_npy(&path).unwrap().same_bits(&t), "{} {:?}", d, dims);
        }
    }

    #[test]
    fn column_major_is_the_reversed_transpose(dims in prop::collection::vec(1usize..5, 0..4)) {
        let n: usize = dims.iter().product();
        let data: Vec<u8> = (0..n as u8).collect();
        let text: String = dims.iter().map(|d| format!("{d},")).collect();
        let t = read(&format!("{{'descr': '|u1', 'fortran_order': True, 'shape': ({text})}}"), &data).unwrap();
        let got = t.to_slice::<u8>().unwrap();
        for (flat, &v) in got.iter().enumerate() {
            let (mut rest, mut at, mut scale) = (flat, 0, n);
            for &d in dims.iter().rev() {
                scale /= d;
                at += rest % d * scale;
                rest /= d;
            }
            prop_assert_eq!(usize::from(v), at);
        }
    }

    #[test]
    fn any_bytes_are_survived(header in "\\PC{0,60}|\\{('(descr|shape|fortran_order)': ?('[<>|]?[a-zU][0-9]{0,3}'|True|False|\\([0-9, ]{0,9}\\)),? ?){0,4}\\}", data: Vec<u8>) {
        let _ = read(&header, &data);
        let _ = parse_npy("a", Bytes::from(data));
    }
}
