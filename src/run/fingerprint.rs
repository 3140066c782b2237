//! What makes two blocks of features the same: every setting that changes a feature, and the files.

use super::network::Network;
use super::settings::Settings;
use crate::dataset::list::Entry;
use crate::dataset::outcome::hex;
use crate::model::executor::Executor;
use sha2::{Digest, Sha256};

/// Raised when p8 computes other features from the same settings.
const FEATURES_VERSION: u32 = 1;

/// Fingerprint of everything but the images that decides the features: 64 hexadecimal digits.
pub fn of_features(settings: &Settings, network: &Network, executor: &dyn Executor) -> String {
    digest(&[
        &format!("p8 features {FEATURES_VERSION}"),
        &network.sha256,
        network.topology.as_str(),
        network.preprocess.as_str(),
        &format!("{:e}", network.batch_norm_epsilon),
        settings.layer.as_str(),
        settings.pool.as_str(),
        settings.exif.as_str(),
        &executor.arithmetic(),
    ])
}

/// Fingerprint of one block: that of the features, and name, size and time of every file in it.
pub fn of_block(features: &str, entries: &[Entry]) -> String {
    let files: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} {} {:?}", entry.bytes, entry.modified, entry.path()))
        .collect();
    let parts: Vec<&str> = std::iter::once(features)
        .chain(files.iter().map(String::as_str))
        .collect();
    digest(&parts)
}

/// SHA-256 over the parts, each with its length, so that no two lists of parts look the same.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_not_confused_with_each_other() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["ab"]), digest(&["ab", ""]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
    }
}
