//! The CAs that registries' certificates are checked with: those of the system, and docker's and podman's files for single
//! hosts. containers-certs.d(5).
//!
//! The system's file is found as Go's crypto/x509 finds it, and so by docker, podman and skopeo.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::environment::{self, Environment};
use crate::error::{Error, Result};

/// The places of the system's CAs, by distribution.
const BUNDLES: &[&str] = &[
    "ssl/certs/ca-certificates.crt",
    "pki/tls/certs/ca-bundle.crt",
    "ssl/ca-bundle.pem",
    "pki/tls/cacert.pem",
    "pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "ssl/cert.pem",
];

/// Returns how TLS is spoken with a host.
///
/// # Errors
/// A file cannot be read or understood.
pub(crate) fn tls(environment: &Environment, host: &str, is_verified: bool) -> Result<TlsConfig> {
    let mut roots = Vec::new();
    if is_verified {
        system(environment, &mut roots)?;
    }
    let mut client = None;
    for directory in directories(environment, host) {
        for path in files(&directory, "crt") {
            add(&path, &mut roots)?;
        }
        for path in files(&directory, "cert") {
            client = Some(client_certificate(&path)?);
        }
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .disable_verification(!is_verified)
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}

fn system(environment: &Environment, roots: &mut Vec<Certificate<'static>>) -> Result<()> {
    let file = environment.path("SSL_CERT_FILE");
    let mut usual = BUNDLES.iter().map(|path| environment.etc(path));
    if let Some(path) = file.or_else(|| usual.find(|path| path.exists())) {
        add(&path, roots)?;
    }
    let directories = environment.path("SSL_CERT_DIR");
    for directory in directories.iter().flat_map(std::env::split_paths) {
        for path in sorted(&directory, |_| true) {
            // There are other files in such directories, and links to files that are gone.
            let _ = add(&path, roots);
        }
    }
    Ok(())
}

/// The directories about a host, those of the user first.
fn directories(environment: &Environment, host: &str) -> impl Iterator<Item = PathBuf> {
    let user = environment.user_containers().map(|dir| dir.join("certs.d"));
    let system = ["containers/certs.d", "docker/certs.d"].map(|path| environment.etc(path));
    user.into_iter().chain(system).map({
        let host = host.to_owned();
        move |dir| dir.join(&host)
    })
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    sorted(directory, |path| {
        path.extension().is_some_and(|it| it == extension)
    })
}

fn sorted(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| wanted(path))
        .collect();
    paths.sort();
    paths
}

fn add(path: &Path, roots: &mut Vec<Certificate<'static>>) -> Result<()> {
    let text = environment::read(path)?.unwrap_or_default();
    for item in parse_pem(text.as_bytes()) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(path, &error))? {
            roots.push(certificate);
        }
    }
    Ok(())
}

/// The certificate in `path`, and the key beside it.
fn client_certificate(path: &Path) -> Result<ClientCert> {
    let mut chain = Vec::new();
    add(path, &mut chain)?;
    let key = path.with_extension("key");
    let text = environment::read(&key)?.unwrap_or_default();
    let key = PrivateKey::from_pem(text.as_bytes()).map_err(|error| wrong(&key, &error))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn wrong(path: &Path, error: &ureq::Error) -> Error {
    Error::Config {
        path: path.to_owned(),
        why: error.to_string(),
    }
}
