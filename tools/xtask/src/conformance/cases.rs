use bytes::Bytes;
use std::{collections::BTreeMap, fs, io::Read, path::Path};
use tensormill_formats::onnx::{self, ValueKind, proto::ModelProto, proto::ValueInfoProto};
use tensormill_tensor::Value;

/// One case.
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The operator it is about: the longest operator's name that the case's name begins with, roughly.
    pub op: String,
    /// The model file.
    pub model: Bytes,
    /// Inputs and outputs, undecoded.
    pub sets: Vec<DataSet>,
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
}

/// Files of one set of inputs and outputs, in order.
#[derive(Default)]
pub struct DataSet {
    inputs: BTreeMap<usize, Bytes>,
    outputs: BTreeMap<usize, Bytes>,
}

/// Decoded inputs and outputs.
pub struct InOut {
    /// In the order of the model's inputs.
    pub inputs: Vec<Value>,
    /// In the order of the model's outputs.
    pub outputs: Vec<Value>,
}

impl DataSet {
    /// Decodes the files by the types that the model declares.
    pub fn decode(&self, model: &Bytes) -> Result<InOut, String> {
        let limits = onnx::ParseLimits::default();
        let external = tensormill_formats::external::ExternalData::deny();
        let parsed = onnx::parse(model.clone(), &limits, external).map_err(|e| e.to_string())?;
        let proto: &ModelProto = parsed.proto();
        let graph = proto.graph.as_ref().ok_or("no graph")?;
        let external = tensormill_formats::external::ExternalData::deny();
        let read = |files: &BTreeMap<usize, Bytes>, infos: &[ValueInfoProto]| {
            files
                .iter()
                .map(|(i, file)| {
                    let kind = infos.get(*i).and_then(|v| v.r#type.as_ref()).and_then(ValueKind::of);
                    let kind = kind.ok_or_else(|| format!("value {i} has no type"))?;
                    onnx::parse_value(kind, file.clone(), &limits, &external).map_err(|e| e.to_string())
                })
                .collect::<Result<Vec<Value>, String>>()
        };
        Ok(InOut { inputs: read(&self.inputs, &graph.input)?, outputs: read(&self.outputs, &graph.output)? })
    }
}

/// Reads the node cases of a folder or an archive.
pub fn load(source: &Path) -> Result<Vec<Case>, String> {
    let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", source.display());
    if source.is_dir() {
        collect(source, source, &mut files).map_err(|e| at(&e))?;
    } else {
        let file = fs::File::open(source).map_err(|e| at(&e))?;
        let plain =
            ruzstd::decoding::StreamingDecoder::new(std::io::BufReader::new(file)).map_err(|e| at(&e))?;
        let mut archive = tar::Archive::new(plain);
        for entry in archive.entries().map_err(|e| at(&e))? {
            let mut entry = entry.map_err(|e| at(&e))?;
            let path = entry.path().map_err(|e| at(&e))?.to_string_lossy().into_owned();
            if is_node_file(&path) {
                let mut data = vec![];
                entry.read_to_end(&mut data).map_err(|e| at(&e))?;
                files.insert(path.trim_start_matches("./").to_owned(), data.into());
            }
        }
    }
    Ok(group(files))
}

fn is_node_file(path: &str) -> bool {
    path.split('/').any(|part| part == "node")
        && (path.ends_with(".onnx") || path.ends_with(".pb") || path.ends_with(".json"))
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<String, Bytes>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if is_node_file(&relative) {
            files.insert(relative, fs::read(&path)?.into());
        }
    }
    Ok(())
}

/// `node/CASE/model.onnx`, `node/CASE/tolerance.json`, `node/CASE/test_data_set_N/{input,output}_I.pb`.
fn group(files: BTreeMap<String, Bytes>) -> Vec<Case> {
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for (path, data) in files {
        let parts: Vec<&str> = path.split('/').skip_while(|p| *p != "node").collect();
        let Some(name) = parts.get(1) else { continue };
        let case = cases.entry((*name).to_owned()).or_insert_with(|| Case {
            name: (*name).to_owned(),
            op: String::new(),
            model: Bytes::new(),
            sets: vec![],
            rtol: 1e-3,
            atol: 1e-7,
        });
        match parts[2..] {
            ["model.onnx"] => case.model = data,
            ["tolerance.json"] => {
                if let Ok(v) = serde_json::from_slice::<serde_json::Value>(&data) {
                    case.rtol = v["rtol"].as_f64().unwrap_or(case.rtol);
                    case.atol = v["atol"].as_f64().unwrap_or(case.atol);
                }
            }
            [set, file] => {
                let Some(n) = set.strip_prefix("test_data_set_").and_then(|n| n.parse::<usize>().ok()) else {
                    continue;
                };
                while case.sets.len() <= n && n < 100 {
                    case.sets.push(DataSet::default());
                }
                let index =
                    |prefix: &str| file.strip_prefix(prefix)?.strip_suffix(".pb")?.parse::<usize>().ok();
                if let Some(set) = case.sets.get_mut(n) {
                    if let Some(i) = index("input_") {
                        set.inputs.insert(i, data);
                    } else if let Some(i) = index("output_") {
                        set.outputs.insert(i, data);
                    }
                }
            }
            _ => {}
        }
    }
    let mut cases: Vec<Case> = cases.into_values().filter(|c| !c.model.is_empty()).collect();
    for c in &mut cases {
        c.op = operator(&c.name, &c.model);
    }
    cases
}

/// The operator that a case is about. Cases of one operator have one node; in an expanded function the
/// case's name tells.
fn operator(name: &str, model: &Bytes) -> String {
    let stem = name.trim_start_matches("test_");
    if let Some((stem, _)) = stem.split_once("_expanded") {
        return format!("(expanded) {}", stem.split('_').next().unwrap_or(stem));
    }
    let limits = onnx::ParseLimits::default();
    let external = tensormill_formats::external::ExternalData::deny();
    let Ok(m) = onnx::parse(model.clone(), &limits, external) else { return "(unreadable)".into() };
    // The last node computes what the case is about; those before it prepare.
    m.graph().node.last().map_or_else(|| "(empty)".into(), |n| n.op_type.clone())
}
