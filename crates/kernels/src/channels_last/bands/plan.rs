//! How an inverted residual is cut: into bands of rows, and among the threads.

use super::super::conv::panels::Panel;
use crate::conv::ConvShape;
use crate::threads::Pool;

/// Floats of a band in the second-level cache, expanded and convolved: half of it.
const ROOM: usize = 64 * 1024;
/// Floats of a convolved image that is one band.
const WHOLE: usize = 80 * 1024;
/// The same where threads share its channels.
const SHARED: usize = 128 * 1024;
/// Floats of a band that is only convolved.
const THIN: usize = 16 * 1024;
/// Floats of the expanded rows under a row of output that stay in the first-level cache.
const NEAR: usize = 4 * 1024;
/// Floats of an expanded image, some channels of it, that stay near.
const NEAR_IMAGE: usize = 8 * 1024;

/// How a block is cut.
pub(super) struct Plan {
    /// Output rows of a band.
    pub rows: usize,
    /// Parts of an image's output rows that are tasks.
    pub cuts: usize,
    /// Parts of the expanded channels that are tasks; if there are several, there is one band and one cut.
    pub groups: usize,
    /// Expanded rows that are kept.
    pub slots: usize,
    /// Whether only the channels of a few panels are kept at a time: all rows then are of one band.
    pub whole: bool,
    /// How many panels those are, or how many are expanded before they are convolved, and their columns.
    pub chunk: usize,
    pub columns: usize,
}

impl Plan {
    /// `even` says that neither vectors nor later steps reach from one panel's channels into another's.
    pub(super) fn new(threads: usize, s: &ConvShape, panels: &[Panel], even: bool) -> Plan {
        let panel = panels.first().map_or(1, |p| p.columns);
        let few =
            |floats: usize, pixels: usize| (floats / (pixels * panel).max(1)).clamp(1, panels.len().max(1));
        // The last panel may be wider than the others.
        let columns =
            |chunk: usize| panels.chunks(chunk).map(|c| c.iter().map(|p| p.columns).sum()).max().unwrap_or(0);
        let channels = s.in_channels;
        let ([_, height, width], [_, oh, ow]) = (s.input, s.output);
        let stride = s.strides[1];
        let reach = ((s.kernel[1] - 1) * s.dilations[1] + 1).min(height);
        let image = (oh * ow).saturating_mul(channels);
        let alone = threads == 1 || s.batch >= threads;
        let whole = !panels.is_empty() && even && image <= if alone { WHOLE } else { SHARED };
        if whole {
            let chunk = few(NEAR_IMAGE, height * width);
            let groups = if alone { 1 } else { (4 * threads).min(panels.len()) };
            return Plan { rows: oh, cuts: 1, groups, slots: height, whole, chunk, columns: columns(chunk) };
        }
        let (row, out_row) = ((width * channels).max(1), (ow * channels).max(1));
        let rows = if panels.is_empty() {
            THIN / out_row
        } else {
            ROOM.saturating_sub(reach.saturating_sub(stride) * row) / (stride.min(height) * row + out_row)
        };
        let cuts = if alone { 1 } else { threads.div_ceil(s.batch).min(oh) };
        let each = oh.div_ceil(cuts);
        let rows = each.div_ceil(each.div_ceil(rows.clamp(1, each)));
        let step = (rows * stride).min(height.max(1));
        let slots = ((rows - 1) * stride + reach).div_ceil(step) * step;
        let chunk = few(NEAR, reach * width);
        Plan { rows, cuts, groups: 1, slots, whole: false, chunk, columns: columns(chunk) }
    }
}

/// Whether one step is likely to be faster than three. It nearly always is; but without an expansion threads
/// have only rows to share, and each of them reads all weights of the product.
pub fn pays(pool: &Pool, s: &ConvShape, expand: Option<&ConvShape>) -> bool {
    expand.is_some() || s.positions() >= 64 * pool.threads()
}
