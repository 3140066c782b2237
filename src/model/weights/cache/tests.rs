//! The cache against a real HTTP server on the loopback that misbehaves to order.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::error::{Classify, Kind};

/// The file as it is published: long enough for several reads.
fn content() -> Vec<u8> {
    (0..300_000u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect()
}

/// What the server does with one request.
#[derive(Clone)]
enum Answer {
    /// The whole file or the range asked for, under this entity tag.
    File(&'static str),
    /// The same, but the connection ends after so many bytes of the body.
    Cut(&'static str, usize),
    /// The whole file whatever the range.
    Whole,
    /// The range asked for, whatever `If-Range` says, under this entity tag.
    Range(&'static str),
    /// Other bytes of the same length.
    Wrong,
    /// A status and nothing else.
    Status(u16),
    /// No answer until the client gives up.
    Hang,
}

/// A server that gives its answers in turn, the last one for ever, and reports the requests.
struct Server {
    url: String,
    requests: Receiver<String>,
}

impl Server {
    fn start(answers: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/weights.bin", listener.local_addr().unwrap());
        let (report, requests) = channel();
        thread::spawn(move || {
            for number in 0.. {
                let (stream, _) = listener.accept().unwrap();
                let answer = answers[number.min(answers.len() - 1)].clone();
                let request = read_request(&stream);
                if report.send(request.clone()).is_err() {
                    return;
                }
                // The client may have gone away, as it should from a server that hangs.
                let _ = answer_request(stream, &request, &answer);
            }
        });
        Server { url, requests }
    }

    /// The requests so far, in lower case.
    fn requests(&self) -> Vec<String> {
        self.requests.try_iter().collect()
    }
}

fn read_request(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines();
    let head: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    head.join("\n").to_lowercase()
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn answer_request(mut stream: TcpStream, request: &str, answer: &Answer) -> io::Result<()> {
    let content = content();
    let asked = header(request, "range").and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let wanted_tag = header(request, "if-range");
    let (body, cut, tag, start) = match answer {
        Answer::File(tag) | Answer::Cut(tag, _) => {
            let start = asked.filter(|_| wanted_tag.is_none_or(|wanted| wanted == *tag));
            let cut = match answer {
                Answer::Cut(_, length) => *length,
                _ => usize::MAX,
            };
            (content.clone(), cut, Some(tag), start)
        }
        Answer::Whole => (content.clone(), usize::MAX, None, None),
        Answer::Range(tag) => (content.clone(), usize::MAX, Some(tag), asked),
        Answer::Wrong => (vec![b'x'; content.len()], usize::MAX, None, None),
        Answer::Status(status) => {
            return write!(
                stream,
                "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Answer::Hang => {
            let mut end = String::new();
            BufReader::new(stream).read_line(&mut end)?;
            return Ok(());
        }
    };
    let total = body.len();
    let mut head = match start {
        Some(start) if start >= total => {
            format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n")
        }
        Some(start) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n",
            total - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let body = body.get(start.unwrap_or(0)..).unwrap_or_default();
    if let Some(tag) = tag {
        head += &format!("ETag: {tag}\r\n");
    }
    head += &format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body[..cut.min(body.len())])
}

struct Case {
    _folder: tempfile::TempDir,
    cache: Cache,
    server: Server,
    published: Published,
}

impl Case {
    fn new(answers: Vec<Answer>) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(answers);
        let cache = Cache::new(folder.path().join("cache/p8")).with_patience(Patience {
            connect: Duration::from_secs(5),
            silence: Duration::from_millis(300),
            attempts: 3,
            pause: Duration::from_millis(5),
        });
        let whole = folder.path().join("whole");
        fs::write(&whole, content()).unwrap();
        let digest = Digest::Md5("").of(&whole).unwrap();
        let published = Published {
            name: "test",
            file_name: "weights.bin",
            url: server.url.clone(),
            digest: Digest::Md5(digest.leak()),
        };
        Case {
            _folder: folder,
            cache,
            server,
            published,
        }
    }

    fn fetch(&self) -> Result<PathBuf, WeightsError> {
        self.cache.fetch_published(&self.published, &mut |_, _| {})
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cache.folder().join(name)
    }

    /// Fetches successfully, and checks that nothing but the file and its lock is left.
    fn fetch_whole(&self) {
        let path = self.fetch().unwrap();
        assert_eq!(path, self.file("weights.bin"));
        assert!(fs::read(path).unwrap() == content());
        let mut left: Vec<String> = fs::read_dir(self.cache.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["weights.bin", "weights.bin.lock"]);
    }
}

#[test]
fn a_file_is_downloaded_once_and_found_afterwards() {
    let case = Case::new(vec![Answer::File("\"a\"")]);
    case.fetch_whole();
    case.fetch_whole();
    let requests = case.server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("get /weights.bin "));
    assert_eq!(header(&requests[0], "range"), None);
    assert_eq!(header(&requests[0], "accept-encoding"), Some("identity"));
}

#[test]
fn a_cut_transfer_is_resumed_where_it_was_cut() {
    let case = Case::new(vec![Answer::Cut("\"a\"", 100_000), Answer::File("\"a\"")]);
    case.fetch_whole();
    let requests = case.server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(header(&requests[1], "range"), Some("bytes=100000-"));
    assert_eq!(header(&requests[1], "if-range"), Some("\"a\""));
}

#[test]
fn a_later_call_resumes_what_an_earlier_one_left() {
    let case = Case::new(vec![
        Answer::Cut("\"a\"", 70_000),
        Answer::Status(503),
        Answer::Status(503),
        Answer::File("\"a\""),
    ]);
    let error = case.fetch().unwrap_err();
    assert!(
        matches!(error, WeightsError::Interrupted { attempts: 3, .. }),
        "{error}"
    );
    assert_eq!(
        fs::read(case.file("weights.bin.part")).unwrap().len(),
        70_000
    );
    assert!(!case.file("weights.bin").exists());
    case.fetch_whole();
    let last = case.server.requests().pop().unwrap();
    assert_eq!(header(&last, "range"), Some("bytes=70000-"));
}

#[test]
fn a_file_that_changed_meanwhile_starts_anew() {
    let case = Case::new(vec![
        Answer::Cut("\"old\"", 50_000),
        Answer::File("\"new\""),
    ]);
    case.fetch_whole();
    let case = Case::new(vec![
        Answer::Cut("\"old\"", 50_000),
        Answer::Range("\"new\""),
        Answer::File("\"new\""),
    ]);
    case.fetch_whole();
    assert_eq!(header(&case.server.requests()[2], "range"), None);
}

#[test]
fn a_server_that_ignores_ranges_starts_anew() {
    let case = Case::new(vec![Answer::Cut("\"a\"", 50_000), Answer::Whole]);
    case.fetch_whole();
    assert!(header(&case.server.requests()[1], "range").is_some());
}

#[test]
fn without_a_strong_validator_nothing_is_resumed() {
    let case = Case::new(vec![
        Answer::Cut("W/\"a\"", 50_000),
        Answer::File("W/\"a\""),
    ]);
    case.fetch_whole();
    assert_eq!(header(&case.server.requests()[1], "range"), None);
}

#[test]
fn a_part_that_was_complete_is_published_without_another_transfer() {
    let case = Case::new(vec![Answer::File("\"a\"")]);
    fs::create_dir_all(case.cache.folder()).unwrap();
    fs::write(case.file("weights.bin.part"), content()).unwrap();
    let version = format!("{}\n\"a\"", case.published.url);
    fs::write(case.file("weights.bin.part.version"), version).unwrap();
    case.fetch_whole();
    assert_eq!(
        header(&case.server.requests()[0], "range"),
        Some("bytes=300000-")
    );
}

#[test]
fn a_part_of_another_address_is_not_resumed() {
    let case = Case::new(vec![Answer::File("\"a\"")]);
    fs::create_dir_all(case.cache.folder()).unwrap();
    fs::write(case.file("weights.bin.part"), "something else").unwrap();
    fs::write(
        case.file("weights.bin.part.version"),
        "http://elsewhere/x\n\"a\"",
    )
    .unwrap();
    case.fetch_whole();
    assert_eq!(header(&case.server.requests()[0], "range"), None);
}

#[test]
fn wrong_bytes_are_removed_and_both_digests_named() {
    let case = Case::new(vec![Answer::Wrong]);
    let error = case.fetch().unwrap_err();
    assert_eq!(error.kind(), Kind::Weights);
    assert!(!error.is_network());
    let text = error.to_string();
    assert!(text.contains(case.published.digest.expected()), "{text}");
    // MD5 of 300000 times "x", by md5sum.
    assert!(text.contains("d408ed46ebcc326f9e7c6bb9c77af1cd"), "{text}");
    assert!(!case.file("weights.bin.part").exists());
    assert!(!case.file("weights.bin").exists());
    assert_eq!(case.server.requests().len(), 1);
}

#[test]
fn a_refusal_is_final_at_once() {
    for status in [404, 403, 401] {
        let case = Case::new(vec![Answer::Status(status)]);
        let error = case.fetch().unwrap_err();
        assert!(
            matches!(error, WeightsError::Refused { status: found, .. } if found == status),
            "{error}"
        );
        assert!(!error.is_network());
        assert_eq!(case.server.requests().len(), 1);
    }
}

#[test]
fn a_server_out_of_order_is_tried_a_few_times() {
    let case = Case::new(vec![Answer::Status(503)]);
    let error = case.fetch().unwrap_err();
    assert!(error.is_network());
    assert_eq!(error.kind(), Kind::Weights);
    assert!(crate::error::chain(&error).contains("503"));
    assert_eq!(case.server.requests().len(), 3);
}

#[test]
fn a_server_that_recovers_is_good_enough() {
    let case = Case::new(vec![
        Answer::Status(503),
        Answer::Status(429),
        Answer::File("\"a\""),
    ]);
    case.fetch_whole();
}

#[test]
fn a_server_that_hangs_is_given_up() {
    let case = Case::new(vec![Answer::Hang]);
    let start = Instant::now();
    let error = case.fetch().unwrap_err();
    assert!(error.is_network(), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn no_server_at_all_is_told_at_once() {
    let mut case = Case::new(vec![Answer::Hang]);
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    case.published.url = format!("http://{port}/weights.bin");
    let error = case.fetch().unwrap_err();
    assert!(matches!(error, WeightsError::Unreachable { .. }), "{error}");
    assert!(error.is_network());
    case.published.url = "http://no-such-host.invalid/weights.bin".to_owned();
    let error = case.fetch().unwrap_err();
    assert!(matches!(error, WeightsError::Unreachable { .. }), "{error}");
}

#[test]
fn two_at_once_download_once() {
    let case = Case::new(vec![Answer::File("\"a\"")]);
    thread::scope(|scope| {
        let fetches: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| case.cache.fetch_published(&case.published, &mut |_, _| {})))
            .collect();
        for fetch in fetches {
            assert!(fs::read(fetch.join().unwrap().unwrap()).unwrap() == content());
        }
    });
    assert_eq!(case.server.requests().len(), 1);
}

#[test]
fn a_cached_file_with_other_content_is_an_error_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(Named::Keras.file_name());
    fs::write(&path, "abc").unwrap();
    let error = Cache::new(folder.path()).find(Named::Keras).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("900150983cd24fb0d6963f7d28e17f72"), "{text}");
    assert!(text.contains("4d473c1dd8becc155b73f8504c6f6626"), "{text}");
    assert!(path.exists());
    assert_eq!(
        Cache::new(folder.path())
            .find(Named::TorchvisionV1)
            .unwrap(),
        None
    );
}

#[test]
fn every_piece_that_arrives_is_told_with_the_whole() {
    let case = Case::new(vec![Answer::Whole]);
    let mut told = Vec::new();
    case.cache
        .fetch_published(&case.published, &mut |arrived, of| told.push((arrived, of)))
        .unwrap();
    let length = fs::metadata(case.file("weights.bin")).unwrap().len();
    assert!(told.is_sorted() && told.iter().all(|(_, of)| *of == Some(length)));
    assert_eq!(told.last().unwrap().0, length);
}

#[test]
fn named_weights_come_from_the_mirror() {
    let case = Case::new(vec![Answer::Status(404)]);
    let mirror = case.server.url.strip_suffix("/weights.bin").unwrap();
    case.cache
        .fetch(Named::TorchvisionV2, Some(mirror), &mut |_, _| {})
        .unwrap_err();
    assert!(case.server.requests()[0].starts_with("get /resnet50-11ad3fa6.pth "));
}

#[test]
fn a_cache_folder_that_cannot_be_made_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error =
        Cache::new(file.join("p8")).fetch(Named::Keras, Some("http://127.0.0.1:1"), &mut |_, _| {});
    assert_eq!(error.unwrap_err().kind(), Kind::Io);
}

#[test]
fn the_default_folder_follows_the_base_directory_specification() {
    let folder = |xdg: &str, home: &str| {
        let set = |value: &str| (value != "unset").then(|| OsString::from(value));
        Cache::default_folder(set(xdg), set(home))
    };
    assert_eq!(folder("/x", "/h"), Some(PathBuf::from("/x/p8")));
    for unset in ["unset", "", "relative"] {
        assert_eq!(folder(unset, "/h"), Some(PathBuf::from("/h/.cache/p8")));
        assert_eq!(folder(unset, unset), None);
    }
}
