//! Trees written and read again.
