//! Operands that ops are made for, so that what lies behind the checks of their shapes is reached.

use crate::catalogue::Choices;
use std::collections::HashMap;
use tensormill_tensor::{DType, Tensor, Value};

/// Per op operands as `dtype:sizes`. A letter is one size for all operands, a digit that size. The dtypes:
/// `f` one float type, `F` f32, `i` i64 (seldom i32), `u` one type of bytes, `B` bool; `_` is left out.
const RECIPES: &[(&str, &[&str])] = &[
    ("where", &["B:ab f:ab f:b"]),
    ("clip", &["f:ab f: f:", "i:a i: i:"]),
    ("reshape", &["f:ab i:2", "f:abc i:1", "i:a i:2"]),
    ("expand", &["f:b i:2", "f:ab i:3"]),
    ("tile", &["f:ab i:2"]),
    ("unsqueeze", &["f:ab i:1", "i:a i:1"]),
    ("squeeze", &["f:a1b i:1"]),
    ("range", &["i: i: i:", "f: f: f:"]),
    ("slice", &["f:ab i:1 i:1 i:1 i:1", "i:a i:1 i:1", "f:abc i:2 i:2 i:2 i:2"]),
    ("split", &["f:ab i:2", "i:a i:2"]),
    ("matmul", &["f:ab f:bc", "f:nab f:bc", "f:nab f:nbc", "f:b f:bc", "i:ab i:bc", "f:ab f:bc f:c"]),
    ("conv", &["f:ncab f:mcxy f:m", "f:nca f:mcx", "f:nca f:m1x", "i:ncab i:mcxy"]),
    ("conv_transpose", &["f:ncab f:cmxy f:m", "f:nca f:cmx"]),
    ("deform_conv", &["f:1144 f:1122 f:1833 f:1 f:1433"]),
    ("max_pool", &["f:ncab", "f:nc56", "u:nc44"]),
    ("average_pool", &["f:ncab", "f:nc56"]),
    ("lp_pool", &["f:ncab", "f:nc56"]),
    ("max_unpool", &["f:ncab i:ncab i:4", "f:nca i:nca"]),
    ("max_roi_pool", &["f:ncab f:r5"]),
    ("roi_align", &["f:1c45 f:r4 i:r", "f:1c45 f:24 i:2"]),
    ("batch_norm", &["f:nca f:c f:c f:c f:c", "f:nc f:c f:c f:c f:c"]),
    ("instance_norm", &["f:nca f:c f:c"]),
    ("group_norm", &["f:nca f:c f:c"]),
    ("layer_norm", &["f:abc f:c f:c", "f:abc f:bc"]),
    ("rms_norm", &["f:abc f:c"]),
    ("resize", &["f:ab _ F:2", "f:ab _ _ i:2", "f:nab f:4 F:2", "f:ab _ F:1"]),
    ("grid_sample", &["f:ncab f:nxy2", "f:ncabd f:nxyz3"]),
    ("affine_grid", &["f:n23 i:4", "f:n34 i:5"]),
    ("col2im", &["f:nca i:2 i:2", "f:144 i:2 i:2", "f:141 i:2 i:2"]),
    ("lstm", &["f:sbi f:14i f:141 f:18 i:b f:1b1 f:1b1 f:13", "f:sbi f:24i f:241"]),
    ("gru", &["f:sbi f:13i f:131 f:16 i:b f:1b1", "f:sbi f:23i f:231"]),
    ("rnn", &["f:sbi f:11i f:111 f:12 i:b f:1b1", "f:sbi f:2hi f:2hh"]),
    ("quantize", &["f:ab f: u:", "f:ab f:b u:b", "f:ab f:ac u:ac", "f:ab f:"]),
    ("dequantize", &["u:ab f: u:", "u:ab f:b u:b", "u:ab f:ac"]),
    ("gather", &["f:ab i:c", "f:ab i:", "i:a i:c"]),
    ("gather_elements", &["f:ab i:ab", "f:ab i:cb"]),
    ("gather_nd", &["f:ab i:c1", "f:ab i:c2", "f:nab i:n1"]),
    ("if", &["B:", "B: f:a"]),
    ("loop", &["i: B: F:a", "i: _ F:a", "_ B: F:a", "i: B:"]),
    ("scan", &["F: F:a", "F:a F:ba"]),
    ("pad", &["f:ab i:4", "f:ab i:2 f: i:1"]),
    ("lrn", &["f:ncab", "f:nca"]),
    ("multinomial", &["f:ab"]),
    ("trilu", &["f:ab i:", "f:nab"]),
    ("scatter_elements", &["f:ab i:ab f:ab", "f:ab i:cb f:cb"]),
    ("scatter_nd", &["f:ab i:c1 f:cb", "f:ab i:c2 f:c"]),
    ("tensor_scatter", &["f:nab f:ncb i:n", "f:nhab f:nhcb"]),
    ("top_k", &["f:ab i:1", "f:ab i:"]),
    ("compress", &["f:ab B:a", "f:ab B:c"]),
    ("cum_sum", &["f:ab i:"]),
    ("cum_prod", &["f:ab i:"]),
    ("one_hot", &["i:a i: f:2", "i:ab i:1 f:2"]),
    ("reverse_sequence", &["f:2b i:b", "f:a2 i:a"]),
    ("random_uniform", &["i:2"]),
    ("random_normal", &["i:2"]),
    ("nll_loss", &["f:nc i:n f:c", "f:nca i:na"]),
    ("softmax_cross_entropy", &["f:nc i:n f:c", "f:nca i:na"]),
    ("attention", &["f:bhqd f:bhkd f:bhkv B:qk", "f:bqe f:bke f:bkg", "f:bhqd f:bhkd f:bhkv f:qk f:bhpd f:bhpv i:b"]),
    ("rotary_embedding", &["f:bhs2 f:m1 f:m1 i:bs", "f:bhs2 f:bs1 f:bs1", "f:bsw f:m1 f:m1 i:bs"]),
    ("linear_attention", &["f:bse f:bse f:bse", "f:bse f:bse f:bse f:bhvk f:bsh f:bsh"]),
    ("causal_conv", &["f:bcs f:c1k f:c f:bcp", "f:bcs f:ck"]),
    ("einsum", &["f:ab f:bc", "f:nab f:nbc", "f:aa", "f:a f:b"]),
    ("det", &["f:aa", "f:naa"]),
    ("dft", &["f:bs1 i: i:", "f:bs2 i:"]),
    ("stft", &["f:bs1 i: f:w i:", "f:bs i: _ i:"]),
    ("mel_weights", &["i: i: i: f: f:"]),
    ("non_max_suppression", &["F:nb4 F:ncb i: F: F:", "F:nb4 F:ncb i:1"]),
    ("lookup", &["f:a f:b f:b f:", "i:a i:b f:b f:"]),
];

/// Operands of this op; `None` where there is no recipe, or one that is too large.
pub fn operands(op: &str, c: &mut Choices) -> Option<Vec<Option<Value>>> {
    let (_, recipes) = RECIPES.iter().find(|(name, _)| *name == op)?;
    let float = [DType::F32, DType::F32, DType::F16, DType::F64][c.below(4)];
    let byte = [DType::U8, DType::I8][c.below(2)];
    let recipe = recipes[c.below(recipes.len())];
    let mut sizes: HashMap<char, usize> = HashMap::new();
    let mut out = vec![];
    for word in recipe.split(' ') {
        let Some((dtype, dims)) = word.split_once(':') else {
            out.push(None);
            continue;
        };
        let dtype = match dtype {
            "f" => float,
            "F" => DType::F32,
            "u" => byte,
            "B" => DType::Bool,
            _ => [DType::I64, DType::I64, DType::I64, DType::I32][c.below(4)],
        };
        let mut size = |d: char| match d.to_digit(10) {
            Some(n) => n as usize,
            None => *sizes.entry(d).or_insert_with(|| [2, 1, 3, 4, 0, 5][c.below(6)]),
        };
        let shape: Vec<usize> = dims.chars().map(&mut size).collect();
        out.push(Some(Value::Tensor(filled(dtype, shape, c)?)));
    }
    out.truncate(out.len() - c.below(3).min(out.len() - 1));
    Some(out)
}

/// A tensor of small numbers, few of them drawn.
fn filled(dtype: DType, shape: Vec<usize>, c: &mut Choices) -> Option<Tensor> {
    let n: usize = shape.iter().product();
    if n > 1024 {
        return None;
    }
    let drawn: Vec<i64> = (0..n.min(6)).map(|_| c.small()).collect();
    let values = (0..n).map(|i| drawn.get(i).copied().unwrap_or(i as i64 % 3));
    match dtype {
        d if d.is_float() => Tensor::from_f64s(d, shape, values.map(|v| v as f64 / 2.0)).ok(),
        DType::Bool => Tensor::from_bools(shape, values.map(|v| v & 1 == 1).collect()).ok(),
        d => Tensor::from_i64s(d, shape, values.map(|v| if d == DType::I64 { v } else { v.clamp(-4, 100).max(if d == DType::U8 { 0 } else { -4 }) })).ok(),
    }
}
