use crate::{
    Complex, DType, Tensor,
    convert::{blocks_f64, blocks_i64},
};
use std::fmt::Write;

/// Characters shown of one string.
const MAX_TEXT: usize = 40;

impl Tensor {
    /// Type, shape and the first `max` values on one line: `f32[2,3] [1, 2, 3, …]`. Safe to show on a
    /// terminal whatever the strings hold.
    pub fn preview(&self, max: usize) -> String {
        let mut out = format!("{}{} [", self.dtype(), self.shape());
        for (i, v) in self.first(max).iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            out.push_str(v);
        }
        if self.len() > max {
            out.push_str(if max > 0 { ", …" } else { "…" });
        }
        out.push(']');
        out
    }

    fn first(&self, max: usize) -> Vec<String> {
        let n = max.min(self.len());
        let mut out = Vec::with_capacity(n);
        if let Ok(strings) = self.strings() {
            for s in &strings[..n] {
                let mut quoted = format!("\"{}", s.chars().take(MAX_TEXT).collect::<String>().escape_debug());
                quoted.push_str(if s.chars().nth(MAX_TEXT).is_some() { "…\"" } else { "\"" });
                out.push(quoted);
            }
            return out;
        }
        let Some(head) = self.head(n) else { return out };
        match self.dtype() {
            DType::Bool => out.extend(head.bytes().iter().map(|&b| (b != 0).to_string())),
            DType::U64 => {
                head.to_slice::<u64>().iter().flat_map(|s| s.iter()).for_each(|x| out.push(x.to_string()));
            }
            d if d.is_complex() => {
                let parts = head.to_complex_vec().unwrap_or_default();
                out.extend(parts.iter().map(|&Complex { re, im }| {
                    let mut s = float(re, d == DType::C128);
                    let sign = if im.is_sign_negative() { "" } else { "+" };
                    let _ = write!(s, "{sign}{}i", float(im, d == DType::C128));
                    s
                }));
            }
            // Only strings and complex numbers have neither view, and they are done.
            d if d.is_float() => {
                let _ =
                    blocks_f64(&head, &mut |v| v.iter().for_each(|&x| out.push(float(x, d == DType::F64))));
            }
            _ => {
                let _ = blocks_i64(&head, &mut |v| v.iter().for_each(|x| out.push(x.to_string())));
            }
        }
        out
    }

    /// The first `n` elements as a vector of their own.
    fn head(&self, n: usize) -> Option<Tensor> {
        let bytes = self.bytes().get(..self.dtype().bytes_for(n)?)?;
        Tensor::from_bytes(self.dtype(), [n], bytes::Bytes::copy_from_slice(bytes)).ok()
    }
}

/// As few digits as read back the same, in scientific notation far from one.
fn float(x: f64, double: bool) -> String {
    let far = x != 0.0 && x.is_finite() && !(1e-4..1e7).contains(&x.abs());
    match (double, far) {
        (true, true) => format!("{x:e}"),
        (true, false) => x.to_string(),
        (false, true) => format!("{:e}", x as f32),
        (false, false) => (x as f32).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_every_type() {
        for &d in DType::ALL {
            let t = Tensor::zeros(d, [2, 3]).unwrap();
            let text = t.preview(2);
            assert!(text.starts_with(&format!("{d}[2,3] [")) && text.ends_with(", …]"), "{text}");
            assert_eq!(text.matches(',').count(), 3, "{text}");
            assert!(Tensor::zeros(d, [0]).unwrap().preview(9).ends_with("[0] []"));
        }
        let t = Tensor::from_vec([4], vec![1.0f32, 0.1, -1e-9, f32::NAN]).unwrap();
        assert_eq!(t.preview(4), "f32[4] [1, 0.1, -1e-9, NaN]");
        assert_eq!(t.preview(0), "f32[4] […]");
        let t = Tensor::from_i64s(DType::I4, [3], [-8, 7, -1]).unwrap();
        assert_eq!(t.preview(3), "i4[3] [-8, 7, -1]");
        let t = Tensor::from_strings([1], vec!["a\x1b[31m\n".to_string()]).unwrap();
        assert_eq!(t.preview(1), r#"str[1] ["a\u{1b}[31m\n"]"#);
        assert_eq!(Tensor::scalar(Complex { re: 1f32, im: -0.5 }).preview(1), "c64[] [1-0.5i]");
    }
}
