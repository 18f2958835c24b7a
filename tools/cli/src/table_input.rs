//! A table of numbers or words to the inputs of a model.

use crate::{failure::Failure, text::safe};
use std::path::Path;
use tensormill::{CastOptions, DType, Port, Tensor};

/// The rows of a CSV file, a header among them; `shown` is what errors call the file.
pub fn records(path: &Path, shown: &str) -> Result<Vec<csv::StringRecord>, Failure> {
    let bad = |e: csv::Error| Failure::new(format!("{shown}: {e}"));
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_path(path).map_err(bad)?;
    reader.records().map(|r| r.map_err(bad)).collect()
}

/// Reads a CSV file. A first row that is not numbers is a header. When every open input is a column,
/// each column feeds its input as `[rows, 1]` (or `[rows]`); else the whole table feeds the one input.
pub fn read(path: &Path, open: &[&Port]) -> Result<Vec<(Option<String>, Tensor)>, Failure> {
    let shown = safe(&path.display().to_string());
    let bad = |what: String| Failure::new(format!("{shown}: {what}"));
    let mut rows = records(path, &shown)?;
    if rows.is_empty() {
        return Err(bad("the table has no rows".into()));
    }
    let numbers = |r: &csv::StringRecord| r.iter().all(|c| c.is_empty() || c.parse::<f64>().is_ok());
    let wants_text = |p: &Port| p.ty.as_tensor().is_some_and(|t| t.dtype == DType::Str);
    let columns = |r: &csv::StringRecord| open.iter().all(|p| r.iter().any(|c| c == p.name));
    let first = &rows[0];
    let by_column = columns(first) && (open.len() > 1 || first.len() == 1);
    let header = by_column || (!numbers(first) && !open.iter().any(|p| wants_text(p)));
    let head = header.then(|| rows.remove(0));
    if by_column {
        let head = head.unwrap_or_default();
        return open
            .iter()
            .map(|port| {
                let at = head.iter().position(|c| c == port.name).unwrap_or_default();
                let cells: Vec<&str> = rows.iter().map(|r| r.get(at).unwrap_or("")).collect();
                let rank = port.ty.as_tensor().and_then(|t| t.rank()).unwrap_or(2);
                let shape = if rank == 1 { vec![cells.len()] } else { vec![cells.len(), 1] };
                Ok((Some(port.name.clone()), tensor(&cells, shape, port).map_err(&bad)?))
            })
            .collect();
    }
    let [port] = open else {
        return Err(bad(format!(
            "the header names no column for some of the {} open inputs: name the columns after them, or write NAME=FILE",
            open.len()
        )));
    };
    let width = rows.first().map_or(0, csv::StringRecord::len);
    let cells: Vec<&str> = rows.iter().flat_map(|r| r.iter()).collect();
    let shape = match port.ty.as_tensor().and_then(|t| t.rank()) {
        Some(1) => vec![cells.len()],
        _ => vec![rows.len(), width],
    };
    Ok(vec![(None, tensor(&cells, shape, port).map_err(bad)?)])
}

/// Cells as the type that an input takes; an empty cell of floats is NaN.
fn tensor(cells: &[&str], shape: Vec<usize>, port: &Port) -> Result<Tensor, String> {
    let dtype = port.ty.as_tensor().map_or(DType::F32, |t| t.dtype);
    let made = if dtype == DType::Str {
        Tensor::from_strings(shape, cells.iter().map(|c| (*c).to_string()).collect())
    } else if dtype.is_int() || dtype == DType::Bool {
        let text = cells.iter().map(|c| (*c).to_string()).collect();
        Tensor::from_strings(shape, text).and_then(|t| t.cast(dtype, CastOptions::default()))
    } else {
        let number = |c: &&str| match *c {
            "" => Ok(f64::NAN),
            c => c.parse::<f64>().map_err(|_| format!("`{}` is no number", safe(c))),
        };
        Tensor::from_f64s(dtype, shape, cells.iter().map(number).collect::<Result<Vec<_>, _>>()?)
    };
    made.map_err(|e| e.to_string())
}
