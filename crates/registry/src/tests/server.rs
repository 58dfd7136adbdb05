//! A registry on loopback whose every answer the test chooses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rdvm_hostfs::Digest;
use rdvm_image::manifest;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::client::Patience;
use crate::{Environment, Error, ImageInUse, Puller, Reference, Registries, Store};

/// A request, as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is wanted.
    pub(super) fn from(&self) -> usize {
        let range = self
            .header("range")
            .and_then(|text| text.strip_prefix("bytes="));
        range.map_or(0, |text| text.trim_end_matches('-').parse().unwrap())
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// The length that is announced, where it is not the body's.
    pub(super) length: Option<u64>,
    /// The end of the answer, behind the body.
    pub(super) then: Then,
}

/// The end of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Then {
    /// The connection is closed.
    #[default]
    Close,
    /// Nothing, for a long time.
    Stall,
    /// The body once more, and again.
    Repeat,
}

impl Reply {
    pub(super) fn ok(body: &[u8]) -> Self {
        Self {
            status: 200,
            body: body.to_vec(),
            ..Self::default()
        }
    }

    pub(super) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self::status(307).with("Location", to)
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The rest of a body, as the request wants it.
    pub(super) fn part(seen: &Seen, body: &[u8]) -> Self {
        match seen.from() {
            0 => Self::ok(body),
            from => Self {
                status: 206,
                body: body[from..].to_vec(),
                ..Self::default()
            }
            .with(
                "Content-Range",
                &format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
            ),
        }
    }

    /// The same with so many bytes of it, and the announced length as it was.
    pub(super) fn cut(mut self, length: usize, then: Then) -> Self {
        self.length = Some(self.body.len() as u64);
        self.body.truncate(length);
        self.then = then;
        self
    }
}

/// A server; its threads end with the process.
pub(super) struct Server {
    pub(super) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers each request by `answer`, which also has the number of requests before for the same path.
    pub(super) fn new(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                // A client that has gone away is no concern of the server's.
                thread::spawn(move || serve(stream, &log, &*answer).ok());
            }
        });
        Self { host, seen }
    }

    /// A registry with `app:1`, and what `change` makes of its answers.
    pub(super) fn of(
        image: &Made,
        change: impl Fn(&Seen, usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let files = image.files.clone();
        Self::new(move |seen, before| {
            let reply = files.get(&seen.path).map(|body| Reply::part(seen, body));
            change(seen, before, reply.unwrap_or(Reply::status(404)))
        })
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path == path).count()
    }

    pub(super) fn name(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(&Seen, usize) -> Reply,
) -> std::io::Result<()> {
    let mut first = [0];
    // A server without TLS makes nothing of a client's hello.
    if stream.peek(&mut first)? == 0 || first[0] == 0x16 {
        return Ok(());
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
            }
            None => break,
        };
    }
    let length: u64 = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let seen = Seen {
        path,
        headers,
        body,
    };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|other| other.path == seen.path).count();
        log.push(seen.clone());
        before
    };
    let reply = answer(&seen, before);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    let length = reply.length.unwrap_or(reply.body.len() as u64);
    write!(head, "Content-Length: {length}\r\n").unwrap();
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&reply.body)?;
    match reply.then {
        Then::Close => {}
        Then::Stall => thread::sleep(Duration::from_secs(60)),
        Then::Repeat => loop {
            stream.write_all(&reply.body)?;
        },
    }
    Ok(())
}

/// An image as a registry has it.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) manifest: Vec<u8>,
    pub(super) layers: Vec<Vec<u8>>,
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The path of a blob of `app`.
pub(super) fn blob_at(bytes: &[u8]) -> String {
    format!("/v2/app/blobs/{}", digest(bytes))
}

/// The path of `app:1`.
pub(super) const MANIFEST: &str = "/v2/app/manifests/1";

impl Made {
    /// `app:1` with layers of these lengths.
    pub(super) fn new(lengths: &[usize]) -> Self {
        let bytes = |seed: usize, length: usize| -> Vec<u8> {
            (0..length)
                .map(|at| ((at * (2 * seed + 7)) >> 3) as u8 ^ seed as u8)
                .collect()
        };
        let layers: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(seed, &length)| bytes(seed, length))
            .collect();
        Self::of(br#"{"os":"linux","architecture":"amd64"}"#, &layers)
    }

    pub(super) fn of(config: &[u8], layers: &[Vec<u8>]) -> Self {
        let part = |kind: &str, bytes: &[u8]| {
            format!(
                r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#,
                digest(bytes),
                bytes.len()
            )
        };
        let parts: Vec<String> = layers
            .iter()
            .map(|layer| part(manifest::LAYER, layer))
            .collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            manifest::MANIFEST,
            part(manifest::CONFIG, config),
            parts.join(",")
        );
        let mut files = BTreeMap::from([
            (MANIFEST.to_owned(), text.clone().into_bytes()),
            (
                format!("/v2/app/manifests/{}", digest(text.as_bytes())),
                text.clone().into_bytes(),
            ),
            (blob_at(config), config.to_vec()),
        ]);
        files.extend(layers.iter().map(|layer| (blob_at(layer), layer.clone())));
        Self {
            files,
            manifest: text.into_bytes(),
            layers: layers.to_vec(),
        }
    }

    /// The path of the layer with this number.
    pub(super) fn layer(&self, number: usize) -> String {
        blob_at(&self.layers[number])
    }
}

/// A user's directories, and a store.
pub(super) struct Home {
    dir: TempDir,
    pub(super) environment: Environment,
    pub(super) store: Store,
}

impl Home {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut environment = Environment::of_test(dir.path());
        environment.set("XDG_RUNTIME_DIR", dir.path().join("run"));
        Self {
            environment,
            store: Store::open(&dir.path().join("store")).unwrap(),
            dir,
        }
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn pull(&self, name: &Reference) -> Result<ImageInUse, Error> {
        self.pull_with(name, PATIENCE)
    }

    pub(super) fn pull_with(
        &self,
        name: &Reference,
        patience: Patience,
    ) -> Result<ImageInUse, Error> {
        let registries = Registries::read(&self.environment).unwrap();
        let puller =
            Puller::new(&self.environment, &registries, &self.store).with_patience(patience);
        puller.pull(std::slice::from_ref(name))
    }

    /// The message of a pull that fails.
    pub(super) fn refuses(&self, name: &Reference) -> String {
        let error = self.pull(name).unwrap_err();
        assert_eq!(self.store.images().unwrap(), [], "{error}");
        error.to_string()
    }

    /// The bytes of a blob, if it has its name.
    pub(super) fn blob(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        std::fs::read(self.store.blob(&digest(bytes))).ok()
    }

    pub(super) fn has_all(&self, image: &Made) {
        for layer in &image.layers {
            assert!(self.blob(layer).as_ref() == Some(layer));
        }
        assert!(self.blob(&image.manifest).as_ref() == Some(&image.manifest));
    }
}

/// Short pauses, and the usual number of attempts.
pub(super) const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(20),
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(20),
    attempts: 4,
    document: Duration::from_secs(20),
};
