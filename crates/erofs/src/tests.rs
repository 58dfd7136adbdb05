//! A tree's file system: the same bytes each time, whole blocks, and every file where it says.
