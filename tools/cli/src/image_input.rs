//! An image to the input of a model.

use crate::{failure::Failure, text::safe};
use image::{ImageReader, imageops::FilterType};
use std::path::Path;
use tensormill::{CastOptions, DType, Port, Tensor};

/// Axes of an image input.
#[derive(Clone, Copy)]
struct Layout {
    channels: usize,
    height: Option<usize>,
    width: Option<usize>,
    channels_last: bool,
    rank: usize,
}

/// Reads an image for an input: resized to the sizes that it fixes, in its layout (channels first or
/// last, found from the axis of 1, 3 or 4), floats from 0 to 1, integers from 0 to 255,
/// signed bytes from -128 to 127.
pub fn read(path: &Path, port: &Port) -> Result<Tensor, Failure> {
    let shown = safe(&path.display().to_string());
    let bad = |what: String| Failure::new(format!("{shown}: {what}"));
    let Some((layout, dtype)) = layout(port) else {
        return Err(bad(format!(
            "an image cannot feed {port}: it takes an input like f32[1,3,H,W] or u8[1,H,W,3]"
        )));
    };
    // The reader's own limits bound what a small file may unpack to.
    let decoded = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|e| bad(e.to_string()))?
        .decode()
        .map_err(|e| bad(format!("not a readable image: {e}")))?;
    let (w, h) = (
        u32::try_from(layout.width.unwrap_or(decoded.width() as usize)).unwrap_or(u32::MAX),
        u32::try_from(layout.height.unwrap_or(decoded.height() as usize)).unwrap_or(u32::MAX),
    );
    if w == 0 || h == 0 || u64::from(w) * u64::from(h) > 1 << 28 {
        return Err(bad(format!("cannot be resized to {w}x{h}")));
    }
    let sized = if (w, h) == (decoded.width(), decoded.height()) {
        decoded
    } else {
        decoded.resize_exact(w, h, FilterType::Triangle)
    };
    let pixels = match layout.channels {
        1 => sized.into_luma8().into_raw(),
        4 => sized.into_rgba8().into_raw(),
        _ => sized.into_rgb8().into_raw(),
    };
    let (w, h, c) = (w as usize, h as usize, layout.channels);
    let ordered: Vec<u8> = if layout.channels_last {
        pixels
    } else {
        (0..c).flat_map(|k| (0..w * h).map(move |i| (k, i))).map(|(k, i)| pixels[i * c + k]).collect()
    };
    let mut shape = if layout.channels_last { vec![1, h, w, c] } else { vec![1, c, h, w] };
    if layout.rank == 3 {
        shape.remove(0);
    }
    if dtype.is_float() {
        let unit: Vec<f32> = ordered.iter().map(|&v| f32::from(v) / 255.0).collect();
        return Ok(Tensor::from_vec(shape, unit)?.cast(dtype, CastOptions::default())?);
    }
    if dtype == DType::I8 {
        // Bytes with a sign stand for the same shades, 128 lower.
        return Ok(Tensor::from_vec(shape, ordered.iter().map(|&v| (v ^ 0x80) as i8).collect())?);
    }
    Ok(Tensor::from_vec(shape, ordered)?.cast(dtype, CastOptions::default())?)
}

fn layout(port: &Port) -> Option<(Layout, DType)> {
    let ty = port.ty.as_tensor()?;
    let dims = ty.dims.as_ref()?;
    let rank = dims.len();
    if !(3..=4).contains(&rank) || !(ty.dtype.is_float() || ty.dtype.is_int()) {
        return None;
    }
    let last = &dims[rank - 3..];
    let channels = |i: usize| last[i].known().filter(|n| matches!(n, 1 | 3 | 4));
    let (channels, channels_last) = match (channels(0), channels(2)) {
        (Some(c), _) => (c, false),
        (None, Some(c)) => (c, true),
        (None, None) => return None,
    };
    let (h, w) = if channels_last { (&last[0], &last[1]) } else { (&last[1], &last[2]) };
    let layout = Layout { channels, height: h.known(), width: w.known(), channels_last, rank };
    Some((layout, ty.dtype))
}
