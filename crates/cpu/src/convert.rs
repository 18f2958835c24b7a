//! Changes of order.

use crate::native::{Built, Native, by_size};
use crate::order::Order;
use tensormill_kernels::channels_last::convert::{from_planes, to_planes};
use tensormill_tensor::{DType, Shape};

/// A kernel that brings a value of this shape into the order.
pub(crate) fn convert(dtype: DType, shape: &Shape, order: Order) -> Option<Native> {
    let (batch, channels) = (shape[0], shape[1]);
    let pixels: usize = shape[2..].iter().product();
    let made: Built = by_size!(dtype.size()?, T => match order {
        Order::ChannelsLast => Native::new("to-channels-last", move |c| {
            let (pool, x, out_pitch) = (c.pool, c.get::<T>(0)?, c.out_pitch::<T>(channels));
            Ok(from_planes(pool, x, batch, channels, pixels, c.out::<T>(0)?, out_pitch)?)
        }),
        Order::Plain => Native::new("to-planes", move |c| {
            let (pool, x, pitch) = (c.pool, c.get::<T>(0)?, c.pitch::<T>(0, channels));
            let out_pitch = c.out_pitch::<T>(pixels);
            Ok(to_planes(pool, x, pitch, batch, channels, pixels, c.out::<T>(0)?, out_pitch)?)
        }),
    });
    let mut native = made.ok()?;
    match order {
        // A row is a pixel of the one order, a plane of the other.
        Order::Plain => {
            native.reads_rows.push((0, channels));
            native.writes_rows = Some(pixels);
        }
        Order::ChannelsLast => native.writes_rows = Some(channels),
    }
    Some(native)
}
