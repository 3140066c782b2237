//! Tells the program which commit, target and compiler it comes from, for `p8 --version`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = commit().unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=P8_BUILD_COMMIT={commit}");
    for (name, of_cargo) in [
        ("P8_BUILD_TARGET", "TARGET"),
        ("P8_BUILD_PROFILE", "PROFILE"),
    ] {
        let value = std::env::var(of_cargo).unwrap_or_else(|_| "unknown".into());
        println!("cargo::rustc-env={name}={value}");
    }
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| {
        let output = Command::new(rustc).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    });
    println!(
        "cargo::rustc-env=P8_BUILD_COMPILER={}",
        compiler.as_deref().unwrap_or("unknown")
    );
}

/// The commit of this source: of the checkout, or the one that cargo noted when it packed a crate.
fn commit() -> Option<String> {
    let packed = Path::new(".cargo_vcs_info.json");
    if packed.exists() {
        println!("cargo::rerun-if-changed={}", packed.display());
        let text = std::fs::read_to_string(packed).ok()?;
        let (_, behind) = text.split_once("\"sha1\"")?;
        let sha = behind.split('"').nth(1)?;
        return sha.get(..12).map(str::to_string);
    }
    // A source unpacked inside somebody else's repository must not take that one's commit.
    let top = std::fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != std::fs::canonicalize(".").ok()? {
        return None;
    }
    // HEAD moves with a checkout, its log with every commit. Cargo would rebuild on each call for a path
    // that is not there, so only those that are there are watched.
    let mut watched = vec!["HEAD".to_string(), "logs/HEAD".into(), "packed-refs".into()];
    watched.extend(git(&["symbolic-ref", "--quiet", "HEAD"]));
    for name in watched {
        if let Some(path) = git(&["rev-parse", "--git-path", &name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git answers; nothing where there is no git or it refuses.
fn git(arguments: &[&str]) -> Option<String> {
    // A checkout of another user, as in a container, is read all the same.
    let output = Command::new("git")
        .args(["-c", "safe.directory=*"])
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_string())
}
