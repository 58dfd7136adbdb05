//! Pulls from servers that are well, slow, broken or hostile, all of them in this process.

mod hostile;
mod logins;
mod pulls;
mod server;
mod stores;
