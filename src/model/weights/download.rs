//! One file over HTTP, resumed where it was cut.
//!
//! What has arrived lies in a part file; beside it stands the address and the validator (RFC 9110,
//! section 8.8) of the version it belongs to. A resumed request names the validator in `If-Range`, so a
//! server whose file has changed sends the whole new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, Uri, header};

use super::cache::at;
use super::{ForeignError, WeightsError};

/// How long a download may take to show life, and how often it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the name to resolve, and again for the connection to stand. Short, so that a machine
    /// without network says so at once.
    pub connect: Duration,
    /// For the next bytes to arrive.
    pub silence: Duration,
    /// Attempts in which less than a mebibyte arrives.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubled after each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_secs(1),
        }
    }
}

/// An attempt that brings as many bytes does not count as a failed one.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Told again and again how many bytes of the file have arrived, of how many where the server says so.
pub type Arrived<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// The part of a file that has arrived.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    validator: PathBuf,
}

impl Part {
    /// A part that later calls and other processes go on with, one at a time.
    pub fn shared(target: &Path) -> Part {
        Part::with_extension(target, "part")
    }

    /// A part of this process alone.
    pub fn private(target: &Path) -> Part {
        Part::with_extension(target, &format!("{}.part", std::process::id()))
    }

    fn with_extension(target: &Path, extension: &str) -> Part {
        let beside = |extension: &str| {
            let mut name = target.as_os_str().to_owned();
            name.push(".");
            name.push(extension);
            PathBuf::from(name)
        };
        Part {
            path: beside(extension),
            validator: beside(&format!("{extension}.version")),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the part its final name; it survives a crash from here on.
    pub fn publish(&self, target: &Path) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, target)?;
        remove(&self.validator)?;
        match target.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes it.
    pub fn discard(&self) -> io::Result<()> {
        remove(&self.path)?;
        remove(&self.validator)
    }

    /// How many bytes there are and of which version; none where it is not known of what they are.
    fn state(&self, url: &str) -> Option<(u64, String)> {
        let text = fs::read_to_string(&self.validator).ok()?;
        let (stored_url, validator) = text.split_once('\n')?;
        let length = fs::metadata(&self.path).ok()?.len();
        (stored_url == url && length > 0).then(|| (length, validator.to_owned()))
    }

    /// An empty part of a version that can be resumed if it has a validator.
    fn start(&self, url: &str, validator: Option<&str>) -> io::Result<File> {
        self.discard()?;
        let file = File::create(&self.path)?;
        if let Some(validator) = validator {
            fs::write(&self.validator, format!("{url}\n{validator}"))?;
        }
        Ok(file)
    }

    fn resume(&self) -> io::Result<File> {
        OpenOptions::new().append(true).open(&self.path)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How an attempt ended that did not finish the file.
enum Failure {
    /// Another attempt would end the same way.
    Final(WeightsError),
    /// No connection came about.
    NotConnected(ForeignError),
    /// Another attempt may go further than this one, which brought so many bytes.
    Passing { received: u64, cause: ForeignError },
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        Failure::Final(error)
    }
}

/// Brings the part to the length that the server states. Its content is still to be checked.
pub(super) fn download(
    url: &str,
    part: &Part,
    patience: Patience,
    arrived: Arrived,
) -> Result<(), WeightsError> {
    let agent = agent(url, patience);
    let mut failed = 0;
    let mut was_connected = false;
    let mut pause = patience.pause;
    loop {
        let cause = match attempt(&agent, url, part, arrived) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::NotConnected(source)) if !was_connected => {
                return Err(WeightsError::Unreachable {
                    url: url.to_owned(),
                    source,
                });
            }
            Err(Failure::NotConnected(cause)) => {
                failed += 1;
                cause
            }
            Err(Failure::Passing { received, cause }) => {
                was_connected = true;
                if received >= PROGRESS_BYTES {
                    failed = 0;
                    pause = patience.pause;
                } else {
                    failed += 1;
                }
                cause
            }
        };
        if failed >= patience.attempts {
            return Err(WeightsError::Interrupted {
                url: url.to_owned(),
                attempts: failed,
                source: cause,
            });
        }
        tracing::info!("download of {url} failed, trying again: {cause}");
        std::thread::sleep(pause);
        pause *= 2;
    }
    Ok(())
}

fn agent(url: &str, patience: Patience) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.silence))
        .timeout_per_read(Some(patience.silence))
        .http_status_as_error(false)
        // Ranges and lengths are those of the file, not of a compressed form of it.
        .accept_encoding("identity")
        .user_agent(concat!("p8/", env!("CARGO_PKG_VERSION")));
    // A proxy cannot reach this machine's own loopback.
    let config = if is_loopback(url) {
        config.proxy(None)
    } else {
        config
    };
    config.build().new_agent()
}

fn is_loopback(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// One request, and its body onto the part.
fn attempt(agent: &ureq::Agent, url: &str, part: &Part, arrived: Arrived) -> Result<(), Failure> {
    let known = part.state(url);
    let mut request = agent.get(url);
    if let Some((length, validator)) = &known {
        request = request
            .header(header::RANGE, format!("bytes={length}-"))
            .header(header::IF_RANGE, validator);
    }
    let mut response = request
        .call()
        .map_err(|error| request_failure(url, error))?;
    let headers = response.headers();
    let (mut file, start, end) = match response.status() {
        StatusCode::OK => {
            let length = number(headers, header::CONTENT_LENGTH);
            let file = part
                .start(url, validator(headers))
                .map_err(at(part.path()))?;
            (file, 0, length)
        }
        StatusCode::PARTIAL_CONTENT => {
            let range = content_range(headers);
            match (known, range) {
                (Some((length, version)), Some((first, total)))
                    if first == length && validator(headers).is_none_or(|new| new == version) =>
                {
                    let file = part.resume().map_err(at(part.path()))?;
                    (file, length, Some(total))
                }
                _ => {
                    part.discard().map_err(at(part.path()))?;
                    return Err(passing(
                        "the server answered with another range than asked for",
                    ));
                }
            }
        }
        StatusCode::RANGE_NOT_SATISFIABLE if known.is_some() => {
            // Nothing is left to ask for when the last run ended just before it could publish.
            if known.map(|(length, _)| length) == unsatisfied_total(headers) {
                return Ok(());
            }
            part.discard().map_err(at(part.path()))?;
            return Err(passing("the server has fewer bytes than arrived before"));
        }
        status if may_pass(status) => {
            return Err(passing(format!("the server answered {}", status.as_u16())));
        }
        status => {
            return Err(Failure::Final(WeightsError::Refused {
                url: url.to_owned(),
                status: status.as_u16(),
            }));
        }
    };

    let mut body = response.body_mut().as_reader();
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let cause = ForeignError::new(error);
                return Err(Failure::Passing { received, cause });
            }
        };
        file.write_all(&buffer[..read]).map_err(at(part.path()))?;
        received += read as u64;
        arrived(start + received, end);
    }
    match end {
        Some(end) if start + received != end => {
            let cause = ForeignError::new(format!("{} of {end} bytes arrived", start + received));
            Err(Failure::Passing { received, cause })
        }
        _ => Ok(()),
    }
}

/// Whether a later request may be answered otherwise.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::TOO_MANY_REQUESTS
}

fn passing(cause: impl std::fmt::Display) -> Failure {
    Failure::Passing {
        received: 0,
        cause: ForeignError::new(cause),
    }
}

/// Sorts the ways in which a request ends without an answer.
fn request_failure(url: &str, error: ureq::Error) -> Failure {
    use ureq::{Error, Timeout};
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | Error::HostNotFound
        | Error::ConnectionFailed
        | Error::ConnectProxyFailed(_)
        | Error::Tls(_)
        | Error::Rustls(_) => Failure::NotConnected(ForeignError::new(error)),
        Error::Io(ref cause) => match cause.kind() {
            // These come from a connection that stood.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::TimedOut => passing(error),
            _ => Failure::NotConnected(ForeignError::new(error)),
        },
        Error::Timeout(_) | Error::Protocol(_) => passing(error),
        // An address that is none, too many redirects: no attempt changes that.
        _ => Failure::Final(WeightsError::Unreachable {
            url: url.to_owned(),
            source: ForeignError::new(error),
        }),
    }
}

/// What names the version of a file: a strong entity tag, else the time of its last change.
fn validator(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name)?.to_str().ok();
    text(header::ETAG)
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| text(header::LAST_MODIFIED))
}

fn number(headers: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and total length of `bytes first-last/total`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()?))
}

/// Total length of `bytes */total`.
fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.trim().strip_prefix("bytes */")?.parse().ok()
}
