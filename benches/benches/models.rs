//! Whole models: the built-in classifier, and the files of a folder.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{error::Error, path::Path};
use tensormill::{Backend, CastOptions, DType, Model, Port, Session, SessionOptions, Tensor, Value};

const DIGITS: &[u8] = include_bytes!("../../tools/cli/assets/digits.onnx");
/// Names a folder of models.
const FOLDER: &str = "TENSORMILL_MODELS";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One thread, and all where there are more.
fn thread_counts() -> Vec<usize> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    if all > 1 { vec![1, all] } else { vec![1] }
}

/// A tensor that fits an input, with elements between 0 and 1; sizes that are open are 1.
fn random(port: &Port) -> Outcome<Value> {
    let ty = port.ty.as_tensor().ok_or_else(|| format!("input {port} is no tensor"))?;
    let dims = ty.dims.as_ref().ok_or_else(|| format!("input {port} has no known rank"))?;
    let shape: Vec<usize> = dims.iter().map(|d| d.known().unwrap_or(1)).collect();
    let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n <= 1 << 28);
    let n = n.ok_or_else(|| format!("input {port} is too large"))?;
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let elements = (0..n).map(|_| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 40) as f32 / (1u64 << 24) as f32
    });
    let t = Tensor::from_vec(shape, elements.collect())?;
    Ok(if ty.dtype == DType::F32 { t } else { t.cast(ty.dtype, CastOptions::default())? }.into())
}

fn measure(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    id: BenchmarkId,
    session: &Session,
    inputs: &[Value],
) -> Outcome<()> {
    session.run(inputs.to_vec())?;
    group.bench_function(id, |b| {
        b.iter_batched(|| inputs.to_vec(), |inputs| session.run(inputs), criterion::BatchSize::SmallInput);
    });
    Ok(())
}

fn digits(c: &mut Criterion) {
    let model = Model::load(DIGITS).expect("the built-in model is sound");
    let mut group = c.benchmark_group("digits");
    for &backend in Backend::ALL {
        // Other backends do not share their work among threads.
        let counts = if backend == Backend::Cpu { thread_counts() } else { vec![1] };
        for threads in counts {
            let options = SessionOptions::new().backend(backend).threads(threads);
            let session = model.session_with(&options).expect("the built-in model compiles");
            for batch in [1, 8, 64] {
                let pixels = (0..batch * 64).map(|i| (i % 17) as f32 / 16.0).collect();
                let images = Tensor::from_vec([batch, 1, 8, 8], pixels).expect("sizes fit");
                group.throughput(Throughput::Elements(batch as u64));
                let id = BenchmarkId::new(format!("{}/{threads}t", backend.name()), batch);
                measure(&mut group, id, &session, &[images.into()]).expect("the built-in model runs");
            }
        }
    }
    group.finish();
}

fn file(c: &mut Criterion, path: &Path) -> Outcome<()> {
    let model = Model::load(path)?;
    let inputs = model.inputs().iter().map(random).collect::<Outcome<Vec<_>>>()?;
    let mut group = c.benchmark_group("files");
    for threads in thread_counts() {
        let session = model.session_with(&SessionOptions::new().threads(threads))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        measure(&mut group, BenchmarkId::new(name, format!("{threads}t")), &session, &inputs)?;
    }
    group.finish();
    Ok(())
}

fn files(c: &mut Criterion) {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let listing = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{FOLDER}={}: {e}", folder.display()));
    let mut paths: Vec<_> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "onnx"));
    paths.sort();
    for path in paths {
        if let Err(e) = file(c, &path) {
            report(&path, &*e);
        }
    }
}

#[allow(clippy::print_stderr)]
fn report(path: &Path, e: &dyn Error) {
    eprintln!("{}: not measured: {e}", path.display());
}

criterion_group!(benches, digits, files);
criterion_main!(benches);
