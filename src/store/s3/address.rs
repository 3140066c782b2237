//! `s3://bucket/key`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What every address begins with.
const SCHEME: &str = "s3://";

/// An object, or a prefix of objects, in a bucket. The key is taken as it is typed: nothing in it is
/// decoded, and slashes are not tidied, because both would name other objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The bucket.
    pub bucket: String,
    /// The key; empty for the whole bucket.
    pub key: String,
}

impl Address {
    /// Whether a text is meant as an address in an object store.
    pub fn is_meant(text: &str) -> bool {
        ["s3://", "s3a://", "s3n://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
    }

    /// The object of this name below this prefix.
    pub fn join(&self, name: &str) -> Self {
        let key = match self.key.trim_end_matches('/') {
            "" => name.to_string(),
            prefix => format!("{prefix}/{name}"),
        };
        Address {
            bucket: self.bucket.clone(),
            key,
        }
    }

    /// The part of the key behind its last slash.
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// The key as a prefix of the objects below it: empty, or ending in a slash.
    pub fn as_folder(&self) -> String {
        match self.key.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(format!(
                "cannot use \"{text}\": an address in S3 is written {SCHEME}bucket/prefix"
            ));
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let is_known = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || !bucket.chars().all(is_known) {
            return Err(format!(
                "cannot use \"{text}\": \"{bucket}\" is no name of a bucket; an address in S3 is written {SCHEME}bucket/prefix"
            ));
        }
        Ok(Address {
            bucket: bucket.to_string(),
            key: key.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_as_it_was_typed() {
        for text in [
            "s3://b/",
            "s3://b/a",
            "s3://b/a/",
            "s3://my.bucket-1/a b/c+d/%20/größe//x",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let whole: Address = "s3://b".parse().unwrap();
        assert_eq!((whole.bucket.as_str(), whole.key.as_str()), ("b", ""));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_form_of_one() {
        for text in ["s3://", "s3:///key", "s3a://b/k", "s3://a b/k", "/tmp/x"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("s3://bucket/prefix"), "{error}");
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn names_are_joined_with_one_slash() {
        let joined = |text: &str| text.parse::<Address>().unwrap().join("x").to_string();
        assert_eq!(joined("s3://b"), "s3://b/x");
        assert_eq!(joined("s3://b/a"), "s3://b/a/x");
        assert_eq!(joined("s3://b/a/"), "s3://b/a/x");
        let address: Address = "s3://b/a/c.jpg".parse().unwrap();
        assert_eq!(address.name(), "c.jpg");
        assert_eq!(address.as_folder(), "a/c.jpg/");
        let whole: Address = "s3://b".parse().unwrap();
        assert_eq!(whole.as_folder(), "");
    }
}
