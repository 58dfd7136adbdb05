//! rdinit.
#![no_std]
