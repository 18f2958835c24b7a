//! A writer of small TensorFlow Lite files, as far as tests need one: FlatBuffers written from the root down.
#![allow(dead_code, reason = "no test program uses all of it")]

/// A field of a table.
#[derive(Clone)]
pub enum Field {
    U8(u8),
    I32(i32),
    U32(u32),
    U64(u64),
    F32(f32),
    Text(String),
    Bytes(Vec<u8>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    I64s(Vec<i64>),
    Table(Table),
    Tables(Vec<Table>),
}

/// Fields with their places in the schema.
pub type Table = Vec<(usize, Field)>;

/// Room for a field in its table; offsets and small numbers are padded to it.
const SLOT: usize = 8;

/// The file of a root table.
pub fn file(root: &Table) -> Vec<u8> {
    let mut out = vec![0; 8];
    out[4..8].copy_from_slice(b"TFL3");
    let at = table(&mut out, root);
    out[..4].copy_from_slice(&(at as u32).to_le_bytes());
    out
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(16), 0);
}

/// Writes a table and all that it leads to; returns where it begins.
fn table(out: &mut Vec<u8>, fields: &Table) -> usize {
    let count = fields.iter().map(|(f, _)| f + 1).max().unwrap_or(0);
    let vtable = out.len();
    let size = SLOT + fields.len() * SLOT;
    out.extend(((4 + 2 * count) as u16).to_le_bytes());
    out.extend((size as u16).to_le_bytes());
    for f in 0..count {
        let at = fields.iter().position(|(n, _)| *n == f).map_or(0, |i| SLOT + i * SLOT);
        out.extend((at as u16).to_le_bytes());
    }
    align(out);
    let at = out.len();
    out.resize(at + size, 0);
    out[at..at + 4].copy_from_slice(&((at - vtable) as i32).to_le_bytes());
    for (i, (_, field)) in fields.iter().enumerate() {
        let place = at + SLOT + i * SLOT;
        let mut put = |bytes: &[u8]| out[place..place + bytes.len()].copy_from_slice(bytes);
        match field {
            Field::U8(v) => put(&[*v]),
            Field::I32(v) => put(&v.to_le_bytes()),
            Field::U32(v) => put(&v.to_le_bytes()),
            Field::U64(v) => put(&v.to_le_bytes()),
            Field::F32(v) => put(&v.to_le_bytes()),
            behind => {
                align(out);
                let to = match behind {
                    Field::Table(t) => table(out, t),
                    Field::Tables(ts) => tables(out, ts),
                    Field::Text(t) => vector(out, t.len(), t.bytes()),
                    Field::Bytes(b) => vector(out, b.len(), b.iter().copied()),
                    Field::I32s(v) => vector(out, v.len(), v.iter().flat_map(|v| v.to_le_bytes())),
                    Field::F32s(v) => vector(out, v.len(), v.iter().flat_map(|v| v.to_le_bytes())),
                    Field::I64s(v) => vector(out, v.len(), v.iter().flat_map(|v| v.to_le_bytes())),
                    _ => unreachable!("the others lie in the table"),
                };
                out[place..place + 4].copy_from_slice(&((to - place) as u32).to_le_bytes());
            }
        }
    }
    at
}

fn vector(out: &mut Vec<u8>, len: usize, bytes: impl Iterator<Item = u8>) -> usize {
    let at = out.len();
    out.extend((len as u32).to_le_bytes());
    out.extend(bytes);
    at
}

fn tables(out: &mut Vec<u8>, all: &[Table]) -> usize {
    let at = vector(out, all.len(), std::iter::repeat_n(0, 4 * all.len()));
    for (i, t) in all.iter().enumerate() {
        let place = at + 4 + 4 * i;
        align(out);
        let to = table(out, t);
        out[place..place + 4].copy_from_slice(&((to - place) as u32).to_le_bytes());
    }
    at
}

pub const F32: u8 = 0;
pub const I32: u8 = 2;
pub const U8: u8 = 3;
pub const BOOL: u8 = 6;
pub const I8: u8 = 9;

/// A model of one subgraph that grows by tensors and operators.
#[derive(Clone, Default)]
pub struct Net {
    pub tensors: Vec<Table>,
    pub buffers: Vec<Table>,
    pub codes: Vec<Table>,
    pub operators: Vec<Table>,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
}

impl Net {
    pub fn new() -> Net {
        Net { buffers: vec![vec![]], ..Net::default() }
    }

    /// A tensor that is computed.
    pub fn tensor(&mut self, name: &str, dtype: u8, dims: &[i32]) -> i32 {
        self.tensors.push(vec![
            (0, Field::I32s(dims.to_vec())),
            (1, Field::U8(dtype)),
            (2, Field::U32(0)),
            (3, Field::Text(name.into())),
        ]);
        self.tensors.len() as i32 - 1
    }

    /// An input.
    pub fn input(&mut self, name: &str, dtype: u8, dims: &[i32]) -> i32 {
        let t = self.tensor(name, dtype, dims);
        self.inputs.push(t);
        t
    }

    /// A tensor whose bytes are in the file.
    pub fn constant(&mut self, dtype: u8, dims: &[i32], bytes: Vec<u8>) -> i32 {
        let t = self.tensor(&format!("c{}", self.tensors.len()), dtype, dims);
        self.tensors[t as usize][2].1 = Field::U32(self.buffers.len() as u32);
        self.buffers.push(vec![(0, Field::Bytes(bytes))]);
        t
    }

    pub fn floats(&mut self, dims: &[i32], v: &[f32]) -> i32 {
        self.constant(F32, dims, v.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn ints(&mut self, dims: &[i32], v: &[i32]) -> i32 {
        self.constant(I32, dims, v.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Says what a tensor's integers stand for.
    pub fn quantized(&mut self, t: i32, scale: &[f32], zero: &[i64], axis: i32) -> i32 {
        let q =
            vec![(2, Field::F32s(scale.to_vec())), (3, Field::I64s(zero.to_vec())), (6, Field::I32(axis))];
        self.tensors[t as usize].push((4, Field::Table(q)));
        t
    }

    /// Adds an operator by its number, with options of a kind.
    pub fn op(&mut self, code: i32, options: (u8, Table), inputs: &[i32], outputs: &[i32]) {
        let old = code.min(127) as u8;
        self.codes.push(vec![(0, Field::U8(old)), (2, Field::I32(1)), (3, Field::I32(code))]);
        let mut op = vec![
            (0, Field::U32(self.codes.len() as u32 - 1)),
            (1, Field::I32s(inputs.to_vec())),
            (2, Field::I32s(outputs.to_vec())),
        ];
        if options.0 != 0 {
            op.extend([(3, Field::U8(options.0)), (4, Field::Table(options.1))]);
        }
        self.operators.push(op);
    }

    /// Adds an operator with a result of its own, which it returns.
    pub fn then(&mut self, code: i32, options: (u8, Table), inputs: &[i32], dtype: u8, dims: &[i32]) -> i32 {
        let y = self.tensor(&format!("t{}", self.tensors.len()), dtype, dims);
        self.op(code, options, inputs, &[y]);
        y
    }

    pub fn root(&self) -> Table {
        let graph = vec![
            (0, Field::Tables(self.tensors.clone())),
            (1, Field::I32s(self.inputs.clone())),
            (2, Field::I32s(self.outputs.clone())),
            (3, Field::Tables(self.operators.clone())),
        ];
        vec![
            (0, Field::U32(3)),
            (1, Field::Tables(self.codes.clone())),
            (2, Field::Tables(vec![graph])),
            (3, Field::Text("written by a test".into())),
            (4, Field::Tables(self.buffers.clone())),
        ]
    }

    /// The file, its outputs being these tensors.
    pub fn file(&self, outputs: &[i32]) -> Vec<u8> {
        let mut net = self.clone();
        net.outputs = outputs.to_vec();
        file(&net.root())
    }
}

/// A small network with most of what a file can have (floats and integers, a kernel, shapes, options), and its output.
pub fn network() -> (Net, i32) {
    let mut net = Net::new();
    let x = net.input("x", I8, &[1, 4, 4, 2]);
    net.quantized(x, &[0.5], &[3], 0);
    net.tensors[0].push((7, Field::I32s(vec![-1, 4, 4, 2])));
    let w = net.constant(I8, &[1, 3, 3, 4], (0..36).collect());
    net.quantized(w, &[0.5, 0.25, 1.0, 2.0], &[0; 4], 3);
    let b = net.ints(&[4], &[1, 2, 3, 4]);
    let y = net.tensor("y", I8, &[1, 2, 2, 4]);
    net.quantized(y, &[1.0], &[0], 0);
    let options = vec![
        (0, Field::U8(0)),
        (1, Field::I32(2)),
        (2, Field::I32(2)),
        (3, Field::I32(2)),
        (4, Field::U8(1)),
        (5, Field::I32(1)),
        (6, Field::I32(1)),
    ];
    net.op(4, (2, options), &[x, w, b], &[y]);
    let pool = vec![
        (0, Field::U8(1)),
        (1, Field::I32(1)),
        (2, Field::I32(1)),
        (3, Field::I32(2)),
        (4, Field::I32(2)),
    ];
    let p = net.tensor("p", I8, &[1, 1, 1, 4]);
    net.quantized(p, &[1.0], &[0], 0);
    net.op(1, (5, pool), &[y], &[p]);
    let f = net.then(6, (38, vec![]), &[p], F32, &[1, 1, 1, 4]);
    let shape = net.ints(&[2], &[-1, 4]);
    let r = net.then(22, (17, vec![(0, Field::I32s(vec![-1, 4]))]), &[f, shape], F32, &[1, 4]);
    let m = net.floats(&[3, 4], &[0.5; 12]);
    let l = net.then(9, (8, vec![(0, Field::U8(1))]), &[r, m, -1], F32, &[1, 3]);
    let s = net.then(25, (9, vec![(0, Field::F32(1.0))]), &[l], F32, &[1, 3]);
    (net, s)
}
