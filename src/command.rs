//! The command: the options over the image's configuration, by docker's rules.

mod lookup;

pub(crate) use lookup::{MOUNTED, missing};

use std::ffi::OsString;

use crate::request::Command;
use rdvm_image::config::{self, Config};

/// The command with everything that the options leave open taken from the image.
///
/// A given entrypoint replaces the image's and drops its arguments; given arguments replace only those. Variables of
/// the options come later, and later ones win.
pub(crate) fn over(spec: &Command, image: &Config) -> Command {
    let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let entrypoint = spec.entrypoint.clone().map(|program| match program {
        // As docker: an empty one clears the image's.
        program if program.is_empty() => Vec::new(),
        program => vec![program],
    });
    let arguments = (!spec.argv.is_empty()).then(|| spec.argv.clone());
    let own = (Some(words(&image.entrypoint)), Some(words(&image.cmd)));
    let (entrypoint, arguments) = config::over((entrypoint, arguments), own);
    let argv = [entrypoint, arguments].into_iter().flatten().flatten();
    let mut env = match spec.exact_env {
        true => Vec::new(),
        false => words(&image.env),
    };
    env.extend_from_slice(&spec.env);
    let or = |spec: &Option<OsString>, image: &Option<String>| {
        let image = || image.as_ref().filter(|text| !text.is_empty());
        spec.clone().or_else(|| image().map(OsString::from))
    };
    Command {
        entrypoint: None,
        argv: argv.collect(),
        env,
        workdir: or(&spec.workdir, &image.workdir),
        user: spec.user.clone().or_else(|| image.user.clone()),
        hostname: or(&spec.hostname, &image.hostname),
        ulimits: spec.ulimits.clone(),
        exact_env: spec.exact_env,
        groups: spec.groups.clone(),
        privileges: spec.privileges.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entrypoint: &[&str], cmd: &[&str]) -> Config {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Config {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            env: words(&["A=image", "B=image"]),
            workdir: Some("/srv".to_owned()),
            hostname: Some(String::new()),
            ..Config::default()
        }
    }

    fn spec(entrypoint: Option<&str>, argv: &[&str]) -> Command {
        Command {
            entrypoint: entrypoint.map(OsString::from),
            argv: argv.iter().map(OsString::from).collect(),
            ..Command::default()
        }
    }

    #[test]
    fn options_and_image_are_put_together_as_docker_does() {
        let both = config(&["serve"], &["--port", "80"]);
        let cases: [(&Config, Command, &[&str]); 9] = [
            (&both, spec(Some(""), &["ls"]), &["ls"]),
            (&both, spec(None, &[]), &["serve", "--port", "80"]),
            (&both, spec(None, &["-v"]), &["serve", "-v"]),
            (&both, spec(Some("sh"), &[]), &["sh"]),
            (&both, spec(Some("sh"), &["-c", "x"]), &["sh", "-c", "x"]),
            (&config(&[], &["sh"]), spec(None, &[]), &["sh"]),
            (&config(&[], &["sh"]), spec(None, &["ls"]), &["ls"]),
            (&config(&["e"], &[]), spec(None, &[]), &["e"]),
            (&Config::default(), spec(None, &[]), &[]),
        ];
        for (image, spec, argv) in cases {
            assert_eq!(over(&spec, image).argv, argv, "{spec:?}");
        }
    }

    #[test]
    fn surroundings_come_from_the_image_unless_given() {
        let image = config(&[], &[]);
        let given = Command {
            env: vec!["B=mine".into()],
            workdir: Some("/".into()),
            ..Command::default()
        };
        let command = over(&given, &image);
        assert_eq!(command.env, ["A=image", "B=image", "B=mine"]);
        assert_eq!(command.workdir.unwrap(), "/");
        assert_eq!(command.hostname, None);
        let exact = Command {
            exact_env: true,
            ..given
        };
        assert_eq!(over(&exact, &image).env, ["B=mine"]);
        assert_eq!(over(&Command::default(), &image).workdir.unwrap(), "/srv");
    }
}
