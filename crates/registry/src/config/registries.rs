//! `registries.conf`, version 2: short names, mirrors, registries without TLS, blocked ones. containers-registries.conf(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use rdvm_hostfs::escape::escaped;

use crate::docker_hub;
use crate::environment::{self, Environment};
use crate::error::{Error, Result};
use crate::reference::{ImageName, Reference, Version, is_host};

/// The most mirrors of one registry that are tried.
const MIRRORS: usize = 16;

/// The configuration of all files together.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Registries to look for short names in; without any it is docker's.
    search: Vec<String>,
    /// Short names that several registries could have are looked for in each, one after the other.
    tries_each: bool,
    aliases: BTreeMap<String, String>,
    tables: Vec<(PathBuf, Table)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    #[serde(default)]
    registry: Vec<Table>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Of version 1.
    registries: Option<toml::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// A place that has an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub(crate) host: String,
    /// The image's path there.
    pub(crate) repository: String,
    /// TLS is not needed, nor a certificate to trust.
    pub(crate) insecure: bool,
}

impl Table {
    fn prefix(&self) -> &str {
        match self.prefix.is_empty() {
            true => &self.location,
            false => &self.prefix,
        }
    }

    /// The length of the part of `name` (with or without a version) that this table is about; `None` if it is not.
    fn matches(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        if let Some(domain) = prefix.strip_prefix('*') {
            let host = &name[..name.find('/').unwrap_or(name.len())];
            let bare = host.split(':').next().unwrap_or(host);
            return (domain.starts_with('.') && bare.ends_with(domain)).then_some(host.len());
        }
        let rest = name.strip_prefix(prefix)?;
        let ends = rest.is_empty() || rest.starts_with(['/', ':', '@']);
        (ends && !prefix.is_empty()).then_some(prefix.len())
    }
}

impl Registries {
    /// Reads the files of the system and the user, later ones over earlier ones.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn read(environment: &Environment) -> Result<Self> {
        let mut all = Self::default();
        if let Some(path) = environment.path("CONTAINERS_REGISTRIES_CONF") {
            all.add(&path)?;
            return Ok(all);
        }
        let user = environment.user_containers();
        let own = user.as_ref().map(|dir| dir.join("registries.conf"));
        match own.filter(|path| path.exists()) {
            Some(path) => all.add(&path)?,
            None => all.add(&environment.etc("containers/registries.conf"))?,
        }
        let below = Some(environment.etc("containers"));
        for dir in below.into_iter().chain(user) {
            for path in drop_ins(&dir.join("registries.conf.d")) {
                all.add(&path)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let Some(text) = environment::read(path)? else {
            return Ok(());
        };
        let wrong = |why: String| Error::Config {
            path: path.to_owned(),
            why,
        };
        let file: File =
            toml::from_str(&text).map_err(|error| wrong(escaped(error.message().as_bytes())))?;
        if file.registries.is_some() {
            return Err(wrong(
                "[registries] is version 1 of this file; write [[registry]]".to_owned(),
            ));
        }
        for table in &file.registry {
            let places = table.mirror.iter().map(|mirror| &mirror.location);
            let places = places.chain(
                [&table.location]
                    .into_iter()
                    .filter(|location| !location.is_empty()),
            );
            for place in places {
                if !is_host(place.split('/').next().unwrap_or_default()) {
                    return Err(wrong(format!(
                        "\"{}\" is not HOST[/PATH]",
                        escaped(place.as_bytes())
                    )));
                }
            }
            if table.prefix().is_empty() {
                return Err(wrong(
                    "a [[registry]] has neither prefix nor location".to_owned(),
                ));
            }
        }
        if let Some(search) = file.unqualified_search_registries {
            if let Some(bad) = search.iter().find(|host| !is_host(host)) {
                return Err(wrong(format!(
                    "\"{}\" is not HOST[:PORT]",
                    escaped(bad.as_bytes())
                )));
            }
            self.search = search;
        }
        match file.short_name_mode.as_deref() {
            Some("disabled" | "permissive") => self.tries_each = true,
            Some("enforcing") => self.tries_each = false,
            Some(other) => {
                return Err(wrong(format!(
                    "short-name-mode \"{}\" is not known",
                    escaped(other.as_bytes())
                )));
            }
            None => {}
        }
        self.aliases.extend(file.aliases);
        for table in file.registry {
            self.tables
                .retain(|(_, old)| old.prefix() != table.prefix());
            self.tables.push((path.to_owned(), table));
        }
        Ok(())
    }

    /// Returns the full names that a name can stand for, in the order in which they are to be tried.
    ///
    /// # Errors
    /// Several, and the files do not say that all may be tried; an alias is no name.
    pub fn candidates(&self, name: &ImageName) -> Result<Vec<Reference>> {
        if let Some(full) = name.full() {
            return Ok(vec![full]);
        }
        if let Some(alias) = self
            .aliases
            .get(name.path())
            .filter(|alias| !alias.is_empty())
        {
            let full: Reference = alias.parse().map_err(|source| Error::Name {
                name: alias.clone(),
                source,
            })?;
            return Ok(vec![name.of(full.registry, full.repository)]);
        }
        if self.search.is_empty() {
            return Ok(vec![name.at(docker_hub::REGISTRY)]);
        }
        let all: Vec<Reference> = self
            .search
            .iter()
            .map(|registry| name.at(registry))
            .collect();
        match self.tries_each || all.len() == 1 {
            true => Ok(all),
            false => Err(Error::Ambiguous {
                name: name.path().to_owned(),
                candidates: all.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Returns the places that have an image: its mirrors, then its registry.
    ///
    /// # Errors
    /// The registry is blocked; a mirror's path is none.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.name();
        let Some((path, table, length)) = self.table(&reference.to_string()) else {
            return Ok(vec![endpoint(&name, false)]);
        };
        if table.blocked {
            return Err(Error::Blocked {
                name: reference.to_string(),
                path: path.to_owned(),
            });
        }
        // A prefix may have a tag, and then there is nothing left to move.
        let rest = name.get(length..).unwrap_or_default();
        let by_digest = matches!(reference.version, Version::Digest(_));
        let is_meant = |mirror: &&Mirror| match mirror.pull_from_mirror.as_deref() {
            Some("digest-only") => by_digest,
            Some("tag-only") => !by_digest,
            _ => by_digest || !table.mirror_by_digest_only,
        };
        let mirrors = table.mirror.iter().filter(is_meant).take(MIRRORS);
        let mut all: Vec<Endpoint> = mirrors
            .map(|mirror| endpoint(&format!("{}{rest}", mirror.location), mirror.insecure))
            .collect();
        all.push(match table.location.is_empty() {
            true => endpoint(&name, table.insecure),
            false => endpoint(&format!("{}{rest}", table.location), table.insecure),
        });
        Ok(all)
    }

    /// True if a host was said to need no TLS.
    pub(crate) fn is_insecure(&self, host: &str) -> bool {
        let of_table = |table: &Table| {
            let own = table.insecure
                && (table.matches(host).is_some() || host_of(&table.location) == host);
            own || table
                .mirror
                .iter()
                .any(|mirror| mirror.insecure && host_of(&mirror.location) == host)
        };
        self.tables.iter().any(|(_, table)| of_table(table))
    }

    /// The table with the longest prefix that a name has.
    fn table(&self, name: &str) -> Option<(&Path, &Table, usize)> {
        let found = self.tables.iter().filter_map(|(path, table)| {
            let length = table.matches(name)?;
            Some((path.as_path(), table, length))
        });
        found.max_by_key(|(_, table, length)| (*length, !table.prefix().starts_with('*')))
    }
}

fn host_of(location: &str) -> &str {
    location.split('/').next().unwrap_or(location)
}

fn endpoint(name: &str, insecure: bool) -> Endpoint {
    let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
    let host = match registry {
        docker_hub::REGISTRY => docker_hub::HOST,
        other => other,
    };
    Endpoint {
        host: host.to_owned(),
        repository: repository.to_owned(),
        insecure,
    }
}

/// The files of a directory that end with `.conf`, by name.
fn drop_ins(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(text: &str) -> Result<Registries> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let mut environment = Environment::of_test(dir.path());
        environment.set("CONTAINERS_REGISTRIES_CONF", path);
        Registries::read(&environment)
    }

    fn candidates(text: &str, name: &str) -> Vec<String> {
        let all = registries(text)
            .unwrap()
            .candidates(&name.parse().unwrap())
            .unwrap();
        all.iter().map(ToString::to_string).collect()
    }

    fn endpoints(text: &str, name: &str) -> Vec<(String, bool)> {
        let all = registries(text)
            .unwrap()
            .endpoints(&name.parse().unwrap())
            .unwrap();
        all.into_iter()
            .map(|it| (format!("{}/{}", it.host, it.repository), it.insecure))
            .collect()
    }

    #[test]
    fn short_names_are_dockers_unless_the_file_says_otherwise() {
        assert_eq!(candidates("", "debian:12"), ["docker.io/library/debian:12"]);
        let one = "unqualified-search-registries = ['r.example']";
        assert_eq!(candidates(one, "debian:12"), ["r.example/debian:12"]);
        assert_eq!(
            candidates(one, "x.example/debian"),
            ["x.example/debian:latest"]
        );
        let alias = "[aliases]\ndebian = 'a.example/deb/ian'";
        assert_eq!(candidates(alias, "debian:12"), ["a.example/deb/ian:12"]);
        let two = "unqualified-search-registries = ['a.example', 'b.example']";
        let each = format!("{two}\nshort-name-mode = 'permissive'");
        assert_eq!(
            candidates(&each, "x"),
            ["a.example/x:latest", "b.example/x:latest"]
        );
        let error = registries(two).unwrap().candidates(&"x".parse().unwrap());
        assert_eq!(
            error.unwrap_err().to_string(),
            "x: could be any of a.example/x:latest, b.example/x:latest; name one of them"
        );
    }

    #[test]
    fn mirrors_come_before_the_registry_and_the_longest_prefix_counts() {
        let text = "
            [[registry]]
            prefix = 'docker.io/library'
            location = 'own.example:5000/hub'
            [[registry.mirror]]
            location = 'mirror.example/m'
            insecure = true
            [[registry.mirror]]
            location = 'digests.example'
            pull-from-mirror = 'digest-only'
            [[registry]]
            location = 'docker.io'
            blocked = true
            [[registry]]
            prefix = '*.lan'
            insecure = true
        ";
        assert_eq!(
            endpoints(text, "docker.io/library/debian:12"),
            [
                ("mirror.example/m/debian".into(), true),
                ("own.example:5000/hub/debian".into(), false)
            ]
        );
        let digest = format!("docker.io/library/debian@sha256:{}", "0".repeat(64));
        assert_eq!(endpoints(text, &digest).len(), 3);
        assert_eq!(
            endpoints(text, "a.b.lan:80/x/y"),
            [("a.b.lan:80/x/y".into(), true)]
        );
        assert_eq!(
            endpoints(text, "lan.example/x"),
            [("lan.example/x".into(), false)]
        );
        let blocked = registries(text)
            .unwrap()
            .endpoints(&"docker.io/user/x:1".parse().unwrap());
        assert!(matches!(blocked, Err(Error::Blocked { .. })), "{blocked:?}");
        let all = registries(text).unwrap();
        for (host, insecure) in [
            ("mirror.example", true),
            ("x.lan", true),
            ("own.example:5000", false),
        ] {
            assert_eq!(all.is_insecure(host), insecure, "{host}");
        }
    }

    #[test]
    fn a_prefix_ends_where_a_part_of_the_name_ends() {
        let text = "[[registry]]\nlocation = 'r.example/a'\ninsecure = true";
        assert!(endpoints(text, "r.example/a/b:1")[0].1);
        assert!(endpoints(text, "r.example/a:1")[0].1);
        assert!(!endpoints(text, "r.example/ab:1")[0].1);
    }

    #[test]
    fn files_that_cannot_be_understood_are_errors() {
        for text in [
            "[registries.search]\nregistries = ['a']",
            "[[registry]]\nblocked = true",
            "[[registry]]\nlocation = 'http://x'",
            "unqualified-search-registries = ['a b']",
            "short-name-mode = 'x'",
            "not toml",
        ] {
            assert!(
                matches!(registries(text), Err(Error::Config { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn the_users_file_is_read_in_place_of_the_systems_and_drop_ins_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, registry: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(
                path,
                format!("unqualified-search-registries = ['{registry}']"),
            )
            .unwrap();
        };
        let search = || {
            Registries::read(&Environment::of_test(dir.path()))
                .unwrap()
                .search
        };
        assert!(search().is_empty());
        write("etc/containers/registries.conf", "etc");
        assert_eq!(search(), ["etc"]);
        write(".config/containers/registries.conf", "user");
        assert_eq!(search(), ["user"]);
        write("etc/containers/registries.conf.d/1.conf", "drop");
        assert_eq!(search(), ["drop"]);
    }
}
