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
            let (pool, x) = (c.pool, c.get::<T>(0)?);
            Ok(from_planes(pool, x, batch, channels, pixels, c.out::<T>(0)?, channels)?)
        }),
        Order::Plain => Native::new("to-planes", move |c| {
            let (pool, x) = (c.pool, c.get::<T>(0)?);
            Ok(to_planes(pool, x, channels, batch, channels, pixels, c.out::<T>(0)?)?)
        }),
    });
    made.ok()
}
