//! Tips for verbs that rdvm does not have.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};

use rdvm_hostfs::escape::escaped;

/// Verbs of docker and podman, and their equivalents.
const ELSEWHERE: [(&[&str], &str); 5] = [
    (
        &["build", "commit", "save", "export", "tag"],
        "rdvm pack writes an image of a directory, an archive or several",
    ),
    (
        &["push"],
        "rdvm pack --format oci -o FILE IMAGE, then: skopeo copy oci-archive:FILE docker://NAME",
    ),
    (
        &["load", "import", "history"],
        "an image is a file or directory that is named at each run; rdvm inspect shows what is in one",
    ),
    (
        &[
            "ps", "exec", "stop", "kill", "logs", "attach", "start", "restart", "rm", "wait", "top",
        ],
        "a machine runs in the foreground and is gone when its command ends; rdvm run -it IMAGE sh opens a shell in one",
    ),
    (
        &["cp", "create"],
        "rdvm run takes --copy-in HOST:GUEST and --copy-out GUEST:HOST",
    ),
];

/// Adds what to type instead, when the verb, the word behind the program's name, is an image, or a verb of docker's. A verb
/// below another (`rdvm kernel nosuch`) is neither.
pub(super) fn with_tip(mut error: clap::Error, verb: Option<&OsString>) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if verb.is_none_or(|verb| verb != word.as_str()) {
        return error;
    }
    let tip = match ELSEWHERE.iter().find(|(verbs, _)| verbs.contains(&&**word)) {
        Some((_, tip)) => (*tip).to_owned(),
        None if error.get(ContextKind::SuggestedSubcommand).is_some() => return error,
        None => {
            let image = escaped(word.as_bytes());
            format!("to run a command in an image: rdvm run {image}")
        }
    };
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
}
