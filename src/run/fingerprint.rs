//! What makes two blocks of features the same: every setting that changes a feature, and the files.

use super::network::Network;
use super::settings::Settings;
use crate::dataset::list::Entry;
use crate::dataset::outcome::hex;
use crate::model::executor::Executor;
use crate::output::shard::Provenance;
use sha2::{Digest, Sha256};

/// Raised when p8 computes other features from the same settings.
const FEATURES_VERSION: u32 = 2;

/// Everything but the images that decides the features, by name; `fingerprint` covers all of it and
/// the arithmetic of this machine as well. The names are those of the options.
pub fn provenance(settings: &Settings, network: &Network, executor: &dyn Executor) -> Provenance {
    [
        ("fingerprint", of_features(settings, network, executor)),
        ("weights", network.id.clone()),
        ("weights_sha256", network.sha256.clone()),
        ("pretrained", network.pretrained.to_string()),
        ("topology", network.topology.as_str().into()),
        ("preprocess", network.preprocess.as_str().into()),
        ("exif", settings.exif.as_str().into()),
        ("layer", settings.layer.as_str().into()),
        ("pool", settings.pool.as_str().into()),
        ("precision", settings.precision.as_str().into()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect()
}

/// Fingerprint of everything but the images that decides the features: 64 hexadecimal digits.
fn of_features(settings: &Settings, network: &Network, executor: &dyn Executor) -> String {
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

/// What tells whether a file is still the one that was featurized, as 32 hexadecimal digits.
pub fn of_image(entry: &Entry) -> String {
    let mut digits = digest(&[&entry.identity()]);
    digits.truncate(32);
    digits
}

/// Fingerprint of one block: that of the features, and of every file in it.
pub fn of_block(features: &str, entries: &[Entry]) -> String {
    let files: Vec<String> = entries.iter().map(of_image).collect();
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
