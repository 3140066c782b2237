//! Checksums that tell a published weights file from any other.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::Md5;
use sha2::Sha256;

/// What is known of a file's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// The MD5, in lower-case hexadecimal.
    Md5(&'static str),
    /// How the SHA-256 starts, in lower-case hexadecimal.
    Sha256Prefix(&'static str),
}

impl Digest {
    /// Name of the algorithm, for messages.
    pub fn algorithm(self) -> &'static str {
        match self {
            Digest::Md5(_) => "MD5",
            Digest::Sha256Prefix(_) => "SHA-256",
        }
    }

    /// What the checksum is, or how it starts.
    pub fn expected(self) -> &'static str {
        match self {
            Digest::Md5(digest) | Digest::Sha256Prefix(digest) => digest,
        }
    }

    /// The checksum of a file by this algorithm, in lower-case hexadecimal.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn of(self, path: &Path) -> io::Result<String> {
        match self {
            Digest::Md5(_) => hash::<Md5>(path),
            Digest::Sha256Prefix(_) => hash::<Sha256>(path),
        }
    }

    /// Whether a checksum from [`Digest::of`] is the expected one.
    pub fn matches(self, found: &str) -> bool {
        match self {
            Digest::Md5(digest) => found == digest,
            Digest::Sha256Prefix(prefix) => found.starts_with(prefix),
        }
    }
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    hash::<Sha256>(path)
}

fn hash<H: sha2::Digest>(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = H::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_abc_are_those_of_the_standards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // RFC 1321, section A.5; FIPS 180-2, appendix B.1.
        let md5 = Digest::Md5("900150983cd24fb0d6963f7d28e17f72");
        assert!(md5.matches(&md5.of(&path).unwrap()));
        let sha256 = Digest::Sha256Prefix("ba7816bf8f01cfea");
        assert!(sha256.matches(&sha256.of(&path).unwrap()));
        assert!(!Digest::Sha256Prefix("ba7816be").matches(&sha256.of(&path).unwrap()));
    }
}
