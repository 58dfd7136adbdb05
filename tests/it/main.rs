//! What rdvm promises, as sentences, in the order of the data path. Machines are booted on every engine available.

mod support;

mod cli;

mod pack;

mod differential;

mod cookbook;

mod outputs;

mod archives;

mod erofs;

mod expected;

mod kept;

mod registry;

mod roundtrip;

mod hostile;

mod memory;

mod root;

mod regions;

mod kernel;

mod scratch;
mod small_kernel;

mod init;

mod streams;

mod input;

mod terminal;

mod tty;

mod endings;

mod stopping;

mod network;

mod clients;

mod many;

mod surroundings;

mod guest;

mod copy_in;

mod copy_out;

mod profile;

mod xattrs;

mod machine;

mod load;

mod sandbox;

mod confine;

mod container;

mod oci;

mod stubs;

mod kernels;

mod images;

mod readme;

mod guide;

mod examples;

mod reports;

mod host;

mod tidy;
