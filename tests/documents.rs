//! Every command of the documents runs.
//!
//! Blocks of `sh` run in their order in one folder per document, with small weights, with images in
//! `photos` and `new`, and with a store in the place of S3. Blocks of `sh cluster` need several hosts and
//! blocks of `sh setup` install or build: of those the words are checked.

use crate::support::documents::{Block, blocks, documents, text};
use crate::support::object_store::{ACCESS_KEY, BUCKET, ObjectStore, SECRET_KEY};
use crate::support::{Images, names, repository, small_weights};
use p8::cli::sources;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// Kinds of blocks that may stand in a document. Blocks of `python` are run by `tests/python.rs`.
const KINDS: [&str; 6] = ["sh", "sh cluster", "sh setup", "python", "text", "toml"];

/// A user's folder, and a store with the same images.
struct Desk {
    folder: tempfile::TempDir,
    store: ObjectStore,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::start();
        let images = Images::new(12);
        for name in names(images.path()) {
            for to in [
                folder.path().join("photos").join(&name),
                folder.path().join("new").join(&name),
                store.bucket().join("photos").join(&name),
            ] {
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(images.path().join(&name), to).unwrap();
            }
        }
        for shared in ["training_data", "examples", "deploy"] {
            symlink(repository().join(shared), folder.path().join(shared)).unwrap();
        }
        let vectors: Vec<f32> = (0..40 * 6).map(|n| ((n * n) % 17) as f32).collect();
        std::fs::write(folder.path().join("vectors.npy"), npy(&vectors, (40, 6))).unwrap();
        let programs = folder.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_p8"), programs.join("p8")).unwrap();
        Desk { folder, store }
    }

    /// Runs a block as a shell does.
    fn run(&self, block: &Block) {
        let code = block
            .code
            .replace("s3://bucket/", &format!("s3://{BUCKET}/"))
            .replace("http://localhost:9000", self.store.endpoint());
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        for name in std::env::vars_os().map(|(name, _)| name) {
            let name_shown = name.to_string_lossy();
            if name_shown.starts_with("P8_") || name_shown.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        let output = command
            .args(["-euo", "pipefail", "-c", &code])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env(
                "PATH",
                format!("{}/bin:{path}", self.folder.path().display()),
            )
            .env("P8_WEIGHTS", small_weights())
            .env("P8_PATH_STYLE", "true")
            .env("AWS_ENDPOINT_URL_S3", self.store.endpoint())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .env("OMPI_MCA_hwloc_base_binding_policy", "none")
            .env("OMPI_MCA_mpi_yield_when_idle", "1")
            .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
            .env("PRTE_MCA_hwloc_default_binding_policy", "none")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}, line {}: {}\n{code}\n{said}",
            block.document,
            block.line,
            output.status
        );
        assert!(!said.contains("is not read"), "{}: {said}", block.document);
    }

    fn has(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }
}

/// A NumPy file of float32 in C order.
fn npy(numbers: &[f32], (rows, columns): (usize, usize)) -> Vec<u8> {
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 11;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((padded + 1) as u16).to_le_bytes());
    bytes.extend(format!("{header:<padded$}\n").bytes());
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

fn run_all(document: &str) -> Desk {
    let desk = Desk::new();
    // Pages that begin in the middle of the story have its first result.
    let story = blocks("README.md").into_iter();
    let first = story
        .filter(|block| block.kind == "sh" && block.code.contains("--output result\n"))
        .take(usize::from(document != "README.md"));
    let mut ran = 0;
    for block in first.chain(blocks(document)) {
        if block.kind == "sh" {
            desk.run(&block);
            ran += 1;
        }
    }
    assert!(ran > 0, "{document} has no commands");
    desk
}

#[test]
fn every_command_of_the_readme_runs() {
    let desk = run_all("README.md");
    for file in [
        "result/report.html",
        "everything/scores.csv",
        "from-s3/scores.parquet",
        "other/model.safetensors",
        "of-vectors/scores.csv",
        "scored/scores.csv",
        "from-file/metrics.json",
        "p8.bash",
    ] {
        assert!(desk.has(file), "{file}");
    }
    assert!(desk.store.bucket().join("result/report.html").exists());
}

#[test]
fn every_command_of_the_page_on_s3_runs() {
    let desk = run_all("docs/s3.md");
    assert!(desk.has("scored-from-s3/scores.csv") && desk.has("from-minio/report.html"));
}

#[test]
fn every_command_of_the_other_pages_runs() {
    for document in documents() {
        let is_tested_above = ["README.md", "docs/s3.md"].contains(&document.as_str());
        if !is_tested_above && blocks(&document).iter().any(|block| block.kind == "sh") {
            run_all(&document);
        }
    }
}

#[test]
fn code_stands_in_blocks_of_a_kind_that_is_tested() {
    for document in documents() {
        for block in blocks(&document) {
            assert!(
                KINDS.contains(&block.kind.as_str()),
                "{document}, line {}: {:?}",
                block.line,
                block.kind
            );
        }
        let mut fenced = false;
        for line in text(&document).lines() {
            fenced ^= line.starts_with("```");
            assert!(
                fenced || !line.starts_with("    "),
                "{document}: code outside of a block: {line:?}"
            );
        }
    }
}

#[test]
fn commands_that_need_a_cluster_or_install_are_spelled_right() {
    let mut checked = Vec::new();
    for block in documents().iter().flat_map(|document| blocks(document)) {
        let is_setup = block.kind == "sh setup";
        if !is_setup && block.kind != "sh cluster" {
            continue;
        }
        let syntax = Command::new("bash")
            .args(["-n", "-c", &block.code])
            .status()
            .unwrap();
        assert!(syntax.success(), "{block:?}");
        let joined = block.code.replace("\\\n", " ");
        for line in joined.lines() {
            let words: Vec<&str> = line
                .split('#')
                .next()
                .unwrap()
                .split_whitespace()
                .map(|word| word.trim_matches('"'))
                .collect();
            for word in &words {
                if let Some(script) = word
                    .strip_prefix("./")
                    .or(word.starts_with("tests/").then_some(*word))
                {
                    assert!(repository().join(script).exists(), "{line}");
                    checked.push(script.to_string());
                }
            }
            let is_p8 = |word: &&str| Path::new(word).file_name().is_some_and(|name| name == "p8");
            if let Some(program) = words.iter().position(is_p8) {
                let arguments: Vec<OsString> =
                    words[program..].iter().map(OsString::from).collect();
                if let Err(error) = sources::merge(&arguments, &|_| None) {
                    panic!("{line}: {error:?}");
                }
                checked.push("p8".into());
            }
        }
    }
    for expected in [
        "scripts/run",
        "scripts/test",
        "p8",
        "tests/cluster/hosts.sh",
    ] {
        assert!(
            checked.iter().any(|word| word == expected),
            "{expected}: {checked:?}"
        );
    }
}

#[test]
fn the_readme_installs_p8_by_a_command_that_cargo_knows() {
    let code: String = blocks("README.md")
        .into_iter()
        .filter(|block| block.kind == "sh setup")
        .map(|block| block.code)
        .collect();
    let line = code.lines().find(|line| line.starts_with("cargo install "));
    let words: Vec<&str> = line.expect("cargo install").split(' ').collect();
    let path = words.iter().position(|word| *word == "--path").unwrap();
    assert!(
        repository()
            .join(words[path + 1])
            .join("Cargo.toml")
            .exists()
    );
    let help = Command::new(env!("CARGO"))
        .args(["install", "-h"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for option in words.iter().filter(|word| word.starts_with("--")) {
        let is_known = help.split_whitespace().any(|word| word == *option);
        assert!(is_known, "cargo install knows no {option}: {help}");
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for document in documents() {
        let folder = repository().join(&document).parent().unwrap().to_path_buf();
        let text = text(&document);
        let headings: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.starts_with("http") {
                continue;
            }
            match target.strip_prefix('#') {
                Some(heading) => assert!(
                    headings.contains(&heading.to_string()),
                    "{document}: {target}"
                ),
                None => assert!(folder.join(target).exists(), "{document}: {target}"),
            }
        }
    }
}

#[test]
fn what_the_page_on_troubles_quotes_is_what_p8_says() {
    let mut sources = String::new();
    let mut folders = vec![repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => sources.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let of_mpirun = [
        "There are not enough slots available",
        "mpirun has detected",
    ];
    let mut quoted = 0;
    for row in text("docs/troubleshooting.md").lines() {
        let Some(cell) = row
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next())
        else {
            continue;
        };
        if of_mpirun.iter().any(|words| cell.starts_with(words)) {
            continue;
        }
        for part in cell
            .split("...")
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            assert!(sources.contains(part), "p8 does not say {part:?}");
            quoted += 1;
        }
    }
    assert!(quoted > 8, "{quoted}");
}

#[test]
fn the_readme_has_the_exit_codes_of_the_program() {
    for code in p8::error::Kind::ALL.map(p8::error::Kind::exit_code) {
        assert!(
            text("README.md").contains(&format!("\n| {code} | ")),
            "{code}"
        );
    }
}
