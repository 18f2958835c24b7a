//! Files to the inputs of a model.

use crate::{args::InputArgs, failure::Failure, image_input, note, table_input, text::safe};
use std::{collections::BTreeMap, io::Read, path::Path};
use tensormill::{CastOptions, DType, Dim, FileKind, Port, Tensor, Type, files};

/// The inputs of a model from the files named, or at random when none is.
pub fn gather(
    args: &InputArgs,
    ports: &[Port],
    sizes: &BTreeMap<String, usize>,
) -> Result<Vec<(String, Tensor)>, Failure> {
    if args.inputs.is_empty() { random(ports, sizes) } else { from_files(args, ports) }
}

/// The inputs of a model from the files named.
pub fn from_files(args: &InputArgs, ports: &[Port]) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut given: Vec<(String, Tensor)> = vec![];
    let mut spare: Vec<String> = vec![];
    for arg in &args.inputs {
        let (target, path) = split(arg, ports)?;
        let open: Vec<&Port> =
            ports.iter().filter(|p| !given.iter().any(|(name, _)| *name == p.name)).collect();
        let wanted = match target {
            Some(name) => open
                .iter()
                .find(|p| p.name == name)
                .map(|p| vec![*p])
                .ok_or_else(|| Failure::new(format!("input \"{}\" is given twice", safe(name))))?,
            None => open,
        };
        for (name, tensor) in read(Path::new(path), &wanted, target.is_some())? {
            // One array for one input needs no name.
            let port = match (wanted.as_slice(), name) {
                ([port], None) => Some(port.name.clone()),
                (ports, Some(name)) => match ports.iter().find(|p| p.name == name) {
                    Some(p) => Some(p.name.clone()),
                    None => {
                        spare.push(name);
                        None
                    }
                },
                (_, None) => {
                    return Err(Failure::new(format!(
                        "{}: holds one array without a name, and several inputs are open: write NAME={} with one of {}",
                        safe(path),
                        safe(path),
                        names(ports)
                    )));
                }
            };
            if let Some(name) = port {
                given.push((name, tensor));
            }
        }
    }
    if let Some(missing) = ports.iter().find(|p| !given.iter().any(|(n, _)| *n == p.name)) {
        let unused = spare.iter().map(|n| format!("\"{}\"", safe(n))).collect::<Vec<_>>().join(", ");
        let extra = if spare.is_empty() { String::new() } else { format!("; the files also hold {unused}") };
        return Err(Failure::new(format!(
            "input \"{}\" is not given; the inputs are {}{extra}",
            safe(&missing.name),
            names(ports)
        )));
    }
    for name in spare {
        note(&format!("note: array \"{}\" is no input of the model and is not used", safe(&name)));
    }
    if args.cast {
        for (name, tensor) in &mut given {
            let want = ports.iter().find(|p| p.name == *name).and_then(|p| p.ty.as_tensor());
            if let Some(want) = want.filter(|w| w.dtype != tensor.dtype()) {
                *tensor = tensor.cast(want.dtype, CastOptions::default())?;
            }
        }
    }
    Ok(given)
}

fn names(ports: &[Port]) -> String {
    ports.iter().map(Port::to_string).collect::<Vec<_>>().join(", ")
}

/// `NAME=FILE` or `FILE`.
fn split<'a>(arg: &'a str, ports: &[Port]) -> Result<(Option<&'a str>, &'a str), Failure> {
    // Names may hold `=` too: the longest input that fits is meant.
    let named = ports
        .iter()
        .filter(|p| arg.strip_prefix(p.name.as_str()).is_some_and(|r| r.starts_with('=')))
        .map(|p| p.name.len())
        .max();
    if let Some(n) = named {
        return Ok((Some(&arg[..n]), &arg[n + 1..]));
    }
    if let Some((name, _)) = arg.split_once('=').filter(|_| !Path::new(arg).exists()) {
        return Err(Failure::new(format!(
            "no input is named \"{}\"; the inputs are {}",
            safe(name),
            names(ports)
        )));
    }
    Ok((None, arg))
}

/// The inputs of a model from one file, converted to the types that it takes.
pub fn from_path(path: &Path, ports: &[Port]) -> Result<Vec<(String, Tensor)>, Failure> {
    from_files(&InputArgs { inputs: vec![path.display().to_string()], cast: true }, ports)
}

/// The arrays of a file: with their names, or one without.
fn read(path: &Path, open: &[&Port], named: bool) -> Result<Vec<(Option<String>, Tensor)>, Failure> {
    let shown = safe(&path.display().to_string());
    match kind(path)? {
        FileKind::Zip => {
            let mut arrays = files::read_npz(path)?;
            if arrays.len() == 1 && (named || open.len() == 1) {
                return Ok(vec![(None, arrays.remove(0).1)]);
            }
            if named {
                return Err(Failure::new(format!("{shown}: holds {} arrays for one input", arrays.len())));
            }
            Ok(arrays.into_iter().map(|(name, t)| (Some(name), t)).collect())
        }
        FileKind::Npy => Ok(vec![(None, files::read_npy(path)?)]),
        FileKind::Image => {
            let port = single(open, &shown)?;
            Ok(vec![(None, image_input::read(path, port)?)])
        }
        FileKind::Text => table_input::read(path, open),
        FileKind::Empty => Err(Failure::new(format!("{shown}: the file is empty"))),
        _ => Err(Failure::new(format!(
            "{shown}: not an input that is read here: give .npz, .npy, PNG, JPEG or CSV"
        ))),
    }
}

/// What a file looks like from its first bytes.
pub fn kind(path: &Path) -> Result<FileKind, Failure> {
    let shown = safe(&path.display().to_string());
    let failed = |e: std::io::Error| Failure::new(format!("{shown}: {e}"));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Failure::new(format!("{shown}: not a regular file")));
    }
    let mut head = [0; 512];
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut n = 0;
    while n < head.len() {
        match file.read(&mut head[n..]).map_err(failed)? {
            0 => break,
            k => n += k,
        }
    }
    Ok(FileKind::of(&head[..n]))
}

fn single<'a>(open: &[&'a Port], shown: &str) -> Result<&'a Port, Failure> {
    match open {
        [port] => Ok(*port),
        _ => Err(Failure::new(format!(
            "{shown}: an image feeds one input, and {} are open: write NAME=FILE",
            open.len()
        ))),
    }
}

/// Inputs of the right types with values that suit most models: floats from 0 to 1, integers 0 and 1.
/// Open sizes are those given, else 1. The same on every call.
pub fn random(ports: &[Port], sizes: &BTreeMap<String, usize>) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    ports
        .iter()
        .map(|port| {
            let Type::Tensor(ty) = &port.ty else {
                return Err(Failure::new(format!(
                    "input {port} is no tensor: random inputs cannot be made for it, and files hold tensors"
                )));
            };
            let shape: Vec<usize> = ty.dims.iter().flatten().map(|d| size_of(d, sizes)).collect();
            let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n <= 1 << 30);
            let Some(n) = n else {
                return Err(Failure::new(format!("input {port} would have too many elements at random")));
            };
            let mut next = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed >> 40) as f64 / (1u64 << 24) as f64
            };
            let tensor = match ty.dtype {
                DType::Str => Tensor::from_strings(shape, vec!["a".to_string(); n])?,
                d if d.is_float() => Tensor::from_f64s(d, shape, (0..n).map(|_| next()))?,
                d if d.is_int() || d == DType::Bool => {
                    let ones: Vec<i64> = (0..n).map(|_| i64::from(next() > 0.5)).collect();
                    let t = Tensor::from_vec(shape, ones)?;
                    t.cast(d, CastOptions::default())?
                }
                d => Tensor::zeros(d, shape)?,
            };
            Ok((port.name.clone(), tensor))
        })
        .collect()
}

fn size_of(d: &Dim, sizes: &BTreeMap<String, usize>) -> usize {
    match d {
        Dim::Known(n) => *n,
        Dim::Unknown => 1,
        Dim::Sym(e) => {
            let mut bindings = std::collections::HashMap::new();
            e.for_each_symbol(&mut |s| {
                let n = sizes.get(&**s).copied().unwrap_or(1);
                bindings.insert(s.clone(), i64::try_from(n).unwrap_or(1));
            });
            d.bind(&bindings).unwrap_or(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_inputs_have_the_types_asked_for() {
        let port = |name: &str, dtype, dims: &[Dim]| Port {
            name: name.into(),
            ty: Type::tensor(dtype, dims.iter().cloned()),
        };
        let ports = [
            port("a", DType::F16, &[Dim::symbol("n"), 3.into(), Dim::Unknown]),
            port("b", DType::I4, &[Dim::symbol("n")]),
            port("c", DType::Bool, &[]),
            port("d", DType::Str, &[2.into()]),
            port("e", DType::C64, &[2.into()]),
        ];
        let sizes = BTreeMap::from([("n".to_string(), 5)]);
        let made = random(&ports, &sizes).unwrap();
        for ((name, t), p) in made.iter().zip(&ports) {
            assert_eq!((name, t.dtype()), (&p.name, p.ty.as_tensor().unwrap().dtype));
        }
        assert_eq!(made[0].1.shape().dims(), [5, 3, 1]);
        assert!(made[0].1.to_f64_vec().unwrap().iter().all(|v| (0.0..=1.0).contains(v)));
        let huge = [port("h", DType::U8, &[(1usize << 40).into()])];
        assert!(random(&huge, &sizes).is_err());
    }
}
