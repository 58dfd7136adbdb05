//! Kernels as something that rdvm makes and judges: `rdvm kernel build` and `rdvm kernel check`.

pub mod build;
pub mod check;
pub mod regions;
