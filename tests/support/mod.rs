//! Builders for the tests: folders with images, and p8 started by a real mpirun.

pub mod browser;
pub mod documents;
pub mod namespaces;
pub mod object_store;

use p8::model::architecture::Architecture;
use p8::model::seeded::draw;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A test that is not done by then hangs.
const TIMEOUT: Duration = Duration::from_secs(240);

/// The rank counts of every test that compares them.
pub const RANKS: [usize; 6] = [1, 2, 3, 4, 5, 7];

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Small random weights (a ResNet-50 with 8, 16, 32 and 64 features in its four stages) that make
/// the whole program quick.
pub fn small_weights() -> PathBuf {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    WRITTEN
        .get_or_init(|| {
            let tensors = draw(Architecture::of_width(2), 1);
            let bytes: Vec<(&String, Vec<usize>, Vec<u8>)> = tensors
                .iter()
                .map(|(name, tensor)| {
                    let data = tensor
                        .data
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect();
                    (name, tensor.shape.clone(), data)
                })
                .collect();
            let views = bytes.iter().map(|(name, shape, data)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
                (name.as_str(), view)
            });
            let metadata = [("topology", "v1"), ("preprocess", "caffe")]
                .map(|(key, value)| (key.to_string(), value.to_string()));
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small.safetensors");
            let file = safetensors::serialize(views, Some(metadata.into())).unwrap();
            std::fs::write(&path, file).unwrap();
            path
        })
        .clone()
}

/// Files that are used where they are there: real weights and photographs.
pub fn reference(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("P8_REFERENCE")
        .map_or_else(|| repository().join("../shared/reference"), PathBuf::from);
    let path = folder.join(what);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

/// A temporary folder with images.
pub struct Images {
    folder: tempfile::TempDir,
}

impl Images {
    /// `count` different pictures in three subfolders, of several sizes and formats.
    pub fn new(count: usize) -> Self {
        let images = Images {
            folder: tempfile::tempdir().unwrap(),
        };
        for number in 0..count {
            let label = ["circle", "stripe", "noise"][number % 3];
            let extension = ["png", "jpg", "bmp"][number / 3 % 3];
            images.picture(&format!("{label}/{number:03}.{extension}"), number as u32);
        }
        images
    }

    /// Adds one picture; the seed decides what it looks like.
    pub fn picture(&self, name: &str, seed: u32) {
        let (width, height) = (40 + seed % 30, 30 + seed % 50);
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            let mut mixed =
                seed.wrapping_mul(2_654_435_761) ^ x.wrapping_mul(40_503) ^ y.wrapping_mul(9_973);
            mixed ^= mixed >> 13;
            mixed = mixed.wrapping_mul(0x5bd1_e995);
            let wave = (x * (1 + seed % 7) + y * (seed % 5)) as u8;
            image::Rgb([wave, (mixed >> 8) as u8 / 2, (seed * 37 % 256) as u8])
        });
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture.save(path).unwrap();
    }

    /// Adds any file.
    pub fn file(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A command line of p8 under mpirun.
#[derive(Clone)]
pub struct P8 {
    ranks: usize,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    /// A program and its arguments that start mpirun.
    under: Vec<String>,
    /// Further options of mpirun.
    launcher: Vec<OsString>,
}

impl P8 {
    /// p8 on this many ranks, without network and without a cache of weights.
    pub fn on(ranks: usize) -> Self {
        P8 {
            ranks,
            arguments: Vec::new(),
            environment: vec![
                // A mirror that refuses at once: no test depends on a network.
                ("P8_WEIGHTS_MIRROR".into(), "http://127.0.0.1:9".into()),
                ("XDG_CACHE_HOME".into(), "/nonexistent/cache".into()),
                // mpirun gives standard output the look of a terminal.
                ("NO_COLOR".into(), "1".into()),
            ],
            folder: repository().to_path_buf(),
            under: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// Gives mpirun further options.
    pub fn launcher<T: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = T>) -> Self {
        let new = options.into_iter().map(|o| o.as_ref().to_os_string());
        self.launcher.extend(new);
        self
    }

    /// Lets another program start mpirun.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|word| word.to_string()).collect();
        self
    }

    /// p8 with the small weights on these images.
    pub fn small(ranks: usize, input: &Path, output: &Path) -> Self {
        P8::on(ranks)
            .args(["--weights".as_ref(), small_weights().as_os_str()])
            .args(["--input".as_ref(), input.as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
    }

    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        let new = arguments.into_iter().map(|a| a.as_ref().to_os_string());
        self.arguments.extend(new);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.into(), value.as_ref().to_os_string()));
        self
    }

    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = folder.to_path_buf();
        self
    }

    /// Starts it in the background.
    pub fn start(&self) -> Running {
        let mut command = mpirun(&self.under, self.ranks);
        command
            .args(&self.launcher)
            .arg(env!("CARGO_BIN_EXE_p8"))
            .args(&self.arguments);
        self.start_as(command)
    }

    /// Starts it without mpirun, as a user does on a laptop.
    pub fn start_alone(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p8"));
        command.args(&self.arguments);
        self.start_as(command)
    }

    fn start_as(&self, mut command: Command) -> Running {
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("P8_") {
                command.env_remove(name);
            }
        }
        command
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::new(command)
    }

    /// Runs it to its end.
    pub fn run(&self) -> Finished {
        self.start().wait()
    }

    /// Runs it and demands success.
    pub fn succeed(&self) -> Finished {
        let finished = self.run();
        assert_eq!(finished.code, 0, "{finished}");
        finished
    }

    /// Runs it and demands this exit code and these words on standard error.
    pub fn fail(&self, code: i32, words: &[&str]) -> Finished {
        let finished = self.run();
        finished.demand(code, words);
        finished
    }
}

/// An `mpirun` that starts more ranks than cores, also as root.
fn mpirun(under: &[String], ranks: usize) -> Command {
    let words: Vec<&str> = under.iter().map(String::as_str).chain(["mpirun"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.args(["-np", &ranks.to_string()]).envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ("PRTE_MCA_hwloc_default_binding_policy", "none"),
    ]);
    command
}

/// A program that is running.
pub struct Running {
    child: Child,
    started: Instant,
    output: [Option<std::thread::JoinHandle<String>>; 2],
}

/// How a program ended.
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Running {
    pub fn new(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            })
        }
        let output = [
            Some(reader(child.stdout.take().unwrap())),
            Some(reader(child.stderr.take().unwrap())),
        ];
        Running {
            child,
            started: Instant::now(),
            output,
        }
    }

    /// Process number of mpirun, or of p8 where it was started alone.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Process numbers of the ranks, lowest first.
    pub fn rank_processes(&self) -> Vec<u32> {
        let mut found: Vec<u32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|process| parent(*process) == Some(self.child.id()))
            .collect();
        found.sort_unstable();
        found
    }

    /// Waits until a condition holds; the program must still be running.
    pub fn until(&mut self, what: &str, condition: impl Fn() -> bool) {
        while !condition() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "ended with {status} before {what}: {}",
                    self.output[1].take().unwrap().join().unwrap()
                );
            }
            assert!(
                self.started.elapsed() < TIMEOUT,
                "waited too long until {what}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait(mut self) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > TIMEOUT {
                for rank in self.rank_processes() {
                    signal("KILL", rank);
                }
                let _ = self.child.kill();
                panic!(
                    "hangs after {TIMEOUT:?}: {}",
                    self.output[1].take().unwrap().join().unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let elapsed = self.started.elapsed();
        let [stdout, stderr] = self.output.map(|reader| reader.unwrap().join().unwrap());
        Finished {
            // A signal, as a shell would say it.
            code: status.code().unwrap_or_else(|| {
                128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
            }),
            stdout,
            stderr,
            elapsed,
        }
    }
}

impl Finished {
    pub fn demand(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self}");
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in what p8 said: {self}"
            );
        }
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit code {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.code, self.elapsed, self.stdout, self.stderr
        )
    }
}

/// Ends a test early, aloud, where this machine cannot run it; in CI, which sets `P8_TESTS_MAY_SKIP` to
/// 0, that is a failure.
pub fn skip(why: &str) {
    // Not through `eprintln`, which the test harness keeps to itself when the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
    assert!(
        std::env::var_os("P8_TESTS_MAY_SKIP").is_none_or(|may| may != "0"),
        "nothing may be skipped here: {why}"
    );
}

/// Sends a signal by name.
pub fn signal(name: &str, process: u32) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold spaces.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The files whose bytes must not depend on ranks and threads, by name.
pub fn stable_files(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in [
        "outcomes.parquet",
        "scores.parquet",
        "scores.csv",
        "model.safetensors",
        "scatter.svg",
        "scree.svg",
    ] {
        files.insert(name.to_string(), std::fs::read(output.join(name)).unwrap());
    }
    for entry in std::fs::read_dir(output.join("features")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("features/{}", path.file_name().unwrap().to_str().unwrap());
        files.insert(name, std::fs::read(path).unwrap());
    }
    files
}

/// Demands that two outputs are the same, and names the first file that is not.
pub fn assert_same_bytes(
    one: &BTreeMap<String, Vec<u8>>,
    other: &BTreeMap<String, Vec<u8>>,
    which: &str,
) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other), "{which}");
    for (name, bytes) in one {
        assert!(bytes == &other[name], "{name} differs: {which}");
    }
}

/// All names in a folder and below, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(
                    path.strip_prefix(folder)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_string(),
                );
            }
        }
    }
    names.sort();
    names
}

/// `metrics.json` of an output.
pub fn metrics(output: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(output.join("metrics.json")).unwrap()).unwrap()
}

/// `scores.csv` of an output: header and rows.
pub fn scores(output: &Path) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_path(output.join("scores.csv")).unwrap();
    let header = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_string)
        .collect();
    let rows = reader
        .records()
        .map(|row| row.unwrap().iter().map(str::to_string).collect())
        .collect();
    (header, rows)
}
