//! Files to samples: one set of inputs each.

use crate::{failure::Failure, inputs, text::safe};
use std::path::{Path, PathBuf};
use tensormill::{CastOptions, FileKind, Port, Tensor, files};

/// The inputs of one run, by name.
pub type Sample = Vec<(String, Tensor)>;

/// The samples of a file or a folder, at most so many, picked by a seed where there are more.
pub fn read(path: &Path, ports: &[Port], most: usize, seed: u64) -> Result<Vec<Sample>, Failure> {
    if path.is_dir() {
        let all = folder(path)?;
        let some = pick(all.len(), most, seed).into_iter().map(|i| &all[i]);
        return some.map(|p| inputs::from_path(p, ports)).collect();
    }
    let named = arrays(path, ports)?;
    let mut all = apart(&shown(path), named, ports)?;
    let picked = pick(all.len(), most, seed);
    Ok(picked.into_iter().map(|i| std::mem::take(&mut all[i])).collect())
}

fn shown(path: &Path) -> String {
    safe(&path.display().to_string())
}

/// The files of a folder by name, without hidden ones.
fn folder(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", shown(path)));
    let mut all = vec![];
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_file() {
            all.push(entry.path());
        }
    }
    if all.is_empty() {
        return Err(Failure::new(format!("{}: the folder has no files", shown(path))));
    }
    // Folders have no order of their own.
    all.sort();
    Ok(all)
}

/// Which of `n` samples are used, in order.
fn pick(n: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    if n > most {
        let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
        // The first `most` places of a shuffle.
        for i in 0..most {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            all.swap(i, i + (z % (n - i) as u64) as usize);
        }
        all.truncate(most);
        all.sort_unstable();
    }
    all
}

/// The arrays of a file under the names of inputs, and those that are no inputs.
pub fn arrays(path: &Path, ports: &[Port]) -> Result<Vec<(String, Tensor)>, Failure> {
    if inputs::kind(path)? != FileKind::Zip {
        return inputs::from_path(path, ports);
    }
    let mut all = files::read_npz(path)?;
    // One array for one input needs no name.
    if let ([(name, _)], [port]) = (&mut all[..], ports) {
        name.clone_from(&port.name);
    }
    Ok(all)
}

/// Arrays with a leading axis of samples as samples.
pub fn apart(at: &str, arrays: Vec<(String, Tensor)>, ports: &[Port]) -> Result<Vec<Sample>, Failure> {
    let mut count = None;
    let mut columns = vec![];
    for port in ports {
        let Some((_, t)) = arrays.iter().find(|(n, _)| *n == port.name) else {
            let names: Vec<String> = arrays.iter().map(|(n, _)| format!("\"{}\"", safe(n))).collect();
            return Err(Failure::new(format!(
                "{at}: no array is named after input {port}; there are {}",
                names.join(", ")
            )));
        };
        let parts = slices(at, t, port)?;
        if count.is_some_and(|n| n != parts.len()) {
            return Err(Failure::new(format!(
                "{at}: input \"{}\" has {} samples, and those before it {}",
                safe(&port.name),
                parts.len(),
                count.unwrap_or(0)
            )));
        }
        count = Some(parts.len());
        columns.push((port.name.clone(), parts));
    }
    let n = count.unwrap_or(0);
    if n == 0 {
        return Err(Failure::new(format!("{at}: holds no samples")));
    }
    Ok((0..n)
        .map(|i| columns.iter().map(|(name, parts)| (name.clone(), parts[i].clone())).collect())
        .collect())
}

/// The parts of an array that each are one input.
fn slices(at: &str, t: &Tensor, port: &Port) -> Result<Vec<Tensor>, Failure> {
    let bad = |what: &str| {
        Failure::new(format!("{at}: an array {}{} {what} for input {port}", t.dtype(), t.shape()))
    };
    let Some(ty) = port.ty.as_tensor() else { return Err(bad("cannot be cut up")) };
    let t = if ty.dtype == t.dtype() { t.clone() } else { t.cast(ty.dtype, CastOptions::default())? };
    let Some(dims) = &ty.dims else { return Err(bad("has samples of unknown rank")) };
    let shape = t.shape().to_vec();
    let (rows, one): (usize, Vec<usize>) = if shape.len() == dims.len() + 1 {
        (1, shape[1..].to_vec())
    } else if shape.len() == dims.len() && !dims.is_empty() {
        // The batch is the axis of samples: cut into batches of the size that the model takes.
        let rows = dims[0].known().unwrap_or(1);
        if rows == 0 || !shape[0].is_multiple_of(rows) {
            return Err(bad("does not divide into batches"));
        }
        (rows, [&[rows], &shape[1..]].concat())
    } else {
        return Err(bad("has the wrong rank"));
    };
    if one.len() != dims.len() || one.iter().zip(dims).any(|(n, d)| d.known().is_some_and(|d| d != *n)) {
        return Err(bad("has samples of another shape"));
    }
    let n = shape[0] / rows;
    part(&t, n, &one).map_err(Failure::new)
}

/// `n` tensors of this shape, one after the other in memory.
fn part(t: &Tensor, n: usize, shape: &[usize]) -> Result<Vec<Tensor>, String> {
    let each: usize = shape.iter().product();
    if t.dtype() == tensormill::DType::Str {
        let all = t.strings().map_err(|e| e.to_string())?;
        return (0..n)
            .map(|i| Tensor::from_strings(shape, all[i * each..(i + 1) * each].to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string());
    }
    let bits = each * t.dtype().bits();
    if !bits.is_multiple_of(8) {
        return Err(format!("samples of {} do not begin at whole bytes", t.dtype()));
    }
    let size = bits / 8;
    (0..n)
        .map(|i| {
            let data = t.bytes()[i * size..(i + 1) * size].to_vec();
            Tensor::from_bytes(t.dtype(), shape, data.into())
        })
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensormill::{DType, Dim, Type};

    fn port(dims: &[Option<usize>]) -> Port {
        let dims = dims.iter().map(|d| d.map_or_else(|| Dim::symbol("N"), Dim::Known));
        Port { name: "x".into(), ty: Type::tensor(DType::F32, dims) }
    }

    fn count(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor::from_vec(shape, (0..n).map(|v| v as f32).collect()).unwrap()
    }

    #[test]
    fn the_leading_axis_is_that_of_samples() {
        let shapes = |p: &Port, shape: &[usize]| {
            slices("f", &count(shape), p).map(|v| v.iter().map(|t| t.shape().to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(shapes(&port(&[Some(1), Some(3)]), &[4, 3]).unwrap(), vec![vec![1, 3]; 4]);
        assert_eq!(shapes(&port(&[None, Some(3)]), &[4, 3]).unwrap(), vec![vec![1, 3]; 4]);
        assert_eq!(shapes(&port(&[Some(2), Some(3)]), &[4, 3]).unwrap(), vec![vec![2, 3]; 2]);
        assert_eq!(shapes(&port(&[Some(2), Some(3)]), &[4, 2, 3]).unwrap(), vec![vec![2, 3]; 4]);
        assert!(shapes(&port(&[Some(2), Some(3)]), &[3, 3]).is_err());
        assert!(shapes(&port(&[Some(2), Some(3)]), &[4, 4]).is_err());
        assert!(shapes(&port(&[]), &[4, 4]).is_err());
        let parts = slices("f", &count(&[2, 3]), &port(&[Some(1), Some(3)])).unwrap();
        assert_eq!(parts[1].to_f32_vec().unwrap(), [3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_seed_picks_the_same_samples_again() {
        assert_eq!(pick(3, 5, 1), [0, 1, 2]);
        let a = pick(1000, 10, 1);
        assert_eq!(a, pick(1000, 10, 1));
        assert_ne!(a, pick(1000, 10, 2));
        assert!(a.windows(2).all(|w| w[0] < w[1]) && a[9] < 1000);
    }
}
