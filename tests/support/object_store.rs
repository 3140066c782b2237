//! A store that speaks the protocol of S3, with signatures checked, on a port of this machine; and a
//! proxy before it that injects faults.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const ACCESS_KEY: &str = "AKIDP8TESTS";
pub const SECRET_KEY: &str = "secret/of+the=tests";
pub const BUCKET: &str = "p8-tests";

/// What happens to a request.
#[derive(Clone)]
pub enum Effect {
    /// An error in the form of S3, instead of what the store says.
    Answer {
        status: u16,
        code: &'static str,
        headers: Vec<(&'static str, String)>,
    },
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// The connection ends before an answer.
    Drop,
    /// No answer for this long.
    Silence(Duration),
}

impl Effect {
    pub fn answer(status: u16, code: &'static str) -> Self {
        Effect::Answer {
            status,
            code,
            headers: Vec::new(),
        }
    }
}

/// A fault for requests of a method whose target holds a text.
#[derive(Clone)]
pub struct Fault {
    pub method: &'static str,
    pub target: String,
    /// How many of them it strikes.
    pub times: usize,
    pub effect: Effect,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    requests: Vec<String>,
}

/// A running store with one bucket. It stops with the process.
pub struct ObjectStore {
    folder: tempfile::TempDir,
    endpoint: String,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl ObjectStore {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
        let mut builder = s3s::service::S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let behind = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
                tokio::spawn(connection);
            }
        });
        let state = Arc::new(Mutex::new(State::default()));
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", front.local_addr().unwrap());
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in front.incoming().flatten() {
                let state = shared.clone();
                // What goes wrong on a connection is the client's to notice.
                std::thread::spawn(move || serve(client, &behind.to_string(), &state));
            }
        });
        ObjectStore {
            folder,
            endpoint,
            state,
            _runtime: runtime,
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The folder in which the objects of the bucket are files.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// The folder of the bucket, and what the store keeps beside it.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Strikes the next `times` requests of this method whose target holds `target`.
    pub fn fault(&self, method: &'static str, target: &str, times: usize, effect: Effect) {
        self.state.lock().unwrap().faults.push(Fault {
            method,
            target: target.into(),
            times,
            effect,
        });
    }

    /// Takes all faults away, and forgets the requests.
    pub fn heal(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// The heads of the requests so far whose first line holds a text.
    pub fn requests(&self, with: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let wanted = |head: &&String| head.lines().next().is_some_and(|line| line.contains(with));
        state.requests.iter().filter(wanted).cloned().collect()
    }
}

/// One request, its answer, and the end of the connection.
fn serve(client: TcpStream, behind: &str, state: &Mutex<State>) -> Option<()> {
    let mut client_reader = BufReader::new(client.try_clone().ok()?);
    let (head, body) = message(&mut client_reader, false)?;
    let effect = {
        let mut state = state.lock().unwrap();
        state.requests.push(head.clone());
        strike(&mut state.faults, head.lines().next()?)
    };
    match &effect {
        Some(Effect::Drop) => return None,
        Some(Effect::Silence(time)) => {
            std::thread::sleep(*time);
            return None;
        }
        Some(Effect::Answer {
            status,
            code,
            headers,
        }) => {
            let body = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>"
            );
            let more: String = headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}",
                body.len()
            );
            return (&client).write_all(answer.as_bytes()).ok();
        }
        _ => {}
    }
    let mut server = TcpStream::connect(behind).ok()?;
    server.write_all(closing(&head).as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    let no_body = head.starts_with("HEAD ");
    let (head, body) = message(&mut BufReader::new(server), no_body)?;
    let mut client = client;
    client.write_all(closing(&head).as_bytes()).ok()?;
    let cut = match effect {
        Some(Effect::CutAfter(bytes)) => bytes,
        _ => body.len(),
    };
    client.write_all(&body[..cut.min(body.len())]).ok()
}

/// The effect of the first fault that this request meets.
fn strike(faults: &mut [Fault], line: &str) -> Option<Effect> {
    let (method, target) = line.split_once(' ')?;
    for fault in faults {
        if fault.method != method || !target.contains(&fault.target) {
            continue;
        }
        if fault.times > 0 {
            fault.times -= 1;
            return Some(fault.effect.clone());
        }
    }
    None
}

/// Head and body of a message; the body as it is on the wire.
fn message(from: &mut impl BufRead, no_body: bool) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_string())
        })
    };
    let mut body = Vec::new();
    match header("Content-Length") {
        _ if no_body => {}
        Some(length) => {
            body.resize(length.parse().ok()?, 0);
            from.read_exact(&mut body).ok()?;
        }
        None if header("Transfer-Encoding").is_some() => loop {
            let mut line = String::new();
            from.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            let mut chunk = vec![0; size + 2];
            from.read_exact(&mut chunk).ok()?;
            body.extend_from_slice(line.as_bytes());
            body.extend_from_slice(&chunk);
            if size == 0 {
                break;
            }
        },
        None => {}
    }
    Some((head, body))
}

/// A head whose connection ends with the message.
fn closing(head: &str) -> String {
    let kept = head
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .filter(|line| !line.is_empty());
    let lines: Vec<&str> = kept.collect();
    format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}
