//! `rdvm oci`: an OCI runtime.

use rdvm::cli::{ListForm, OciArgs, OciVerb};
use rdvm::oci::{Error, Runtime, features, parse_signal};

use crate::Result;
use crate::print::print;

/// The version of the specification.
const SPEC: &str = "1.2.0";

/// Does what an engine asks for. An error goes to standard error and to the log, where engines read it.
pub(crate) fn oci(args: OciArgs) -> Result<u8> {
    if args.version {
        let version = env!("CARGO_PKG_VERSION");
        return print(&format!("rdvm-oci version {version}\nspec: {SPEC}\n"));
    }
    let (log, runtime) = (args.log(), args.runtime());
    let Some(verb) = args.verb else {
        return Err("oci: a verb is missing; rdvm oci --help lists them".into());
    };
    let is_run = matches!(verb, OciVerb::Run(_));
    match act(&runtime, verb) {
        Ok(code) => Ok(code),
        Err(error) => {
            log.error(&error.to_string());
            crate::print::say(&error.to_string());
            Ok(if is_run { error.exit_code() } else { 1 })
        }
    }
}

fn act(runtime: &Runtime, verb: OciVerb) -> rdvm::oci::Result<u8> {
    let done = |()| 0;
    match verb {
        OciVerb::Create(words) => runtime.create(&words.args(false)).map(|_| 0),
        OciVerb::Run(words) => {
            let keeps = words.keep;
            runtime.run(&words.args(), keeps)
        }
        OciVerb::Start(of) => runtime.start(&of.id).map(done),
        OciVerb::State(of) => runtime
            .state(&of.id)
            .map(|state| show(&format!("{state}\n"))),
        OciVerb::Kill(words) => {
            let signal = parse_signal(&words.signal)?;
            runtime.kill(&words.id, signal).map(done)
        }
        OciVerb::Delete(words) => runtime.delete(&words.id, words.force).map(done),
        OciVerb::List(words) => list(runtime, words.format, words.quiet),
        OciVerb::Ps(words) => {
            let pids = runtime.ps(&words.id)?;
            Ok(show(&match words.format {
                ListForm::Json => format!("{}\n", serde_json::json!(pids)),
                ListForm::Table => {
                    let lines = pids.iter().map(|pid| format!("{pid}\n"));
                    std::iter::once("PID\n".to_owned()).chain(lines).collect()
                }
            }))
        }
        OciVerb::Pause(of) => runtime.pause(&of.id).map(done),
        OciVerb::Resume(of) => runtime.resume(&of.id).map(done),
        OciVerb::Features => Ok(show(&format!("{:#}\n", features()))),
        OciVerb::Exec(_) => Err(Error::Verb(
            "exec: a machine runs one command, and has no way in for a second; start a container for it",
        )),
        OciVerb::Update(_) => Err(Error::Verb(
            "update: a machine's size is fixed when it is created; create the container anew",
        )),
        OciVerb::Events(_) => Err(Error::Verb(
            "events: rdvm keeps no statistics; read those of the container's control group",
        )),
        OciVerb::Checkpoint(_) => Err(Error::Verb(
            "checkpoint: a machine cannot be saved; let it end",
        )),
    }
}

fn list(runtime: &Runtime, format: ListForm, quiet: bool) -> rdvm::oci::Result<u8> {
    let containers = runtime.list()?;
    let text = match format {
        _ if quiet => containers
            .iter()
            .map(|one| format!("{}\n", one.id))
            .collect(),
        ListForm::Json => {
            let states: Vec<&str> = containers.iter().map(|one| &*one.json).collect();
            format!("[{}]\n", states.join(","))
        }
        ListForm::Table => {
            let mut text = format!(
                "{:<24} {:>8} {:<9} {:<31} BUNDLE\n",
                "ID", "PID", "STATUS", "CREATED"
            );
            for one in &containers {
                let bundle = one.bundle.display();
                text += &format!(
                    "{:<24} {:>8} {:<9} {:<31} {bundle}\n",
                    one.id, one.pid, one.status, one.created
                );
            }
            text
        }
    };
    Ok(show(&text))
}

/// Prints what was asked for; an engine that does not read it has no use for an error either.
fn show(text: &str) -> u8 {
    print(text).unwrap_or(1)
}
