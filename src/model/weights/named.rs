//! The weights that p8 knows by name: where they are published and how to know them.

use std::fmt;
use std::path::Path;

use super::digest::Digest;
use super::{StateDict, WeightsError, read};

/// Published ImageNet weights of a ResNet-50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Named {
    /// Of `keras.applications`, without the classifier.
    Keras,
    /// torchvision's `IMAGENET1K_V1`.
    TorchvisionV1,
    /// torchvision's `IMAGENET1K_V2`.
    TorchvisionV2,
}

impl Named {
    /// All of them.
    pub const ALL: [Named; 3] = [Named::Keras, Named::TorchvisionV1, Named::TorchvisionV2];

    /// The name, as given to `--weights`.
    pub fn name(self) -> &'static str {
        match self {
            Named::Keras => "keras",
            Named::TorchvisionV1 => "torchvision-v1",
            Named::TorchvisionV2 => "torchvision-v2",
        }
    }

    /// The weights of this name.
    pub fn from_name(name: &str) -> Option<Named> {
        Named::ALL.into_iter().find(|named| named.name() == name)
    }

    /// Name of the file, where it is published and in the cache folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Named::Keras => "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            Named::TorchvisionV1 => "resnet50-0676ba61.pth",
            Named::TorchvisionV2 => "resnet50-11ad3fa6.pth",
        }
    }

    /// Address of the file, with its publisher or under a mirror's address.
    pub fn url(self, mirror: Option<&str>) -> String {
        let folder = match self {
            Named::Keras => "https://storage.googleapis.com/tensorflow/keras-applications/resnet",
            Named::TorchvisionV1 | Named::TorchvisionV2 => "https://download.pytorch.org/models",
        };
        let folder = mirror.unwrap_or(folder).trim_end_matches('/');
        format!("{folder}/{}", self.file_name())
    }

    /// The checksum that the publisher gives.
    pub fn digest(self) -> Digest {
        match self {
            Named::Keras => Digest::Md5("4d473c1dd8becc155b73f8504c6f6626"),
            Named::TorchvisionV1 => Digest::Sha256Prefix("0676ba61"),
            Named::TorchvisionV2 => Digest::Sha256Prefix("11ad3fa6"),
        }
    }

    /// Reads a file that holds these weights; the origin gets their name.
    ///
    /// # Errors
    ///
    /// Those of [`read`].
    pub fn read(self, path: &Path) -> Result<StateDict, WeightsError> {
        let mut state = read(path)?;
        state.origin.id = self.name().to_owned();
        Ok(state)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to tell a user whose named weights are neither in the cache nor to be had.
pub fn three_ways() -> &'static str {
    "three ways to supply weights:
  1. give a file: --weights PATH (.safetensors, .pth or .h5), or --weights seeded:50 for a trial without training
  2. put the published file into the cache folder, $XDG_CACHE_HOME/p8 or else ~/.cache/p8
     (keras: resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5,
      torchvision-v1: resnet50-0676ba61.pth, torchvision-v2: resnet50-11ad3fa6.pth)
  3. let p8 download it: give this machine access to the network, directly, through HTTPS_PROXY, or set
     P8_WEIGHTS_MIRROR to an address under which the file lies"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_a_mirror_replaces_the_folder_only() {
        for named in Named::ALL {
            assert_eq!(Named::from_name(named.name()), Some(named));
            assert_eq!(
                named.url(Some("http://mirror:81/p8/")),
                format!("http://mirror:81/p8/{}", named.file_name())
            );
            assert!(three_ways().contains(named.file_name()));
        }
        assert_eq!(Named::from_name("torchvision"), None);
        assert_eq!(
            Named::TorchvisionV2.url(None),
            "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
        );
    }
}
