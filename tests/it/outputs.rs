//! What pack writes is what other tools read.
