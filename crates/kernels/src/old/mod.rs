//! On its way out.
#![allow(missing_docs)]
mod gemm;
mod implicit_filter;
mod long_conv;
pub use gemm::{Epilogue, PackedWeight};
pub use implicit_filter::{FilterMlp, FilterTaps, SineLayer};
pub use long_conv::{FftPlans, LongFilter, filter_length, long_conv};
