//! `--copy-in`: files of the host → a tree of its own in the initrd, which PID 1 moves into its place.
