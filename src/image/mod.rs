//! IMAGE → [`tree::Tree`].

pub mod tree;
