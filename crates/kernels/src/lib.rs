//! CPU kernels over slices: matrix products, convolution, elementwise maps, reductions, threads.
