//! From Keras' layer names to torchvision's module names.

/// What a layer of a Keras ResNet is to torchvision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layer {
    /// A convolution and the batch norm behind it, which takes its bias.
    Convolution {
        /// Such as `layer1.0.conv1`.
        name: String,
        /// Such as `layer1.0.bn1`.
        norm: String,
    },
    /// A batch norm, such as `layer1.0.bn1`.
    BatchNorm(String),
    /// The classifier behind the network.
    Classifier,
}

/// Finds the module for the name of a layer: `conv1_conv`, `conv1_bn`, and
/// `conv<stage>_block<block>_<slot>_<conv|bn>` with stages from 2, blocks from 1, and slot 0 the
/// shortcut.
pub(super) fn layer(name: &str) -> Option<Layer> {
    // `dense` and `dense_3` are what Keras calls a dense layer that was given no name.
    let counted = |base| {
        name.strip_prefix(base).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix('_')
                    .is_some_and(|n| n.parse::<u32>().is_ok())
        })
    };
    if name == "predictions" || counted("dense") {
        return Some(Layer::Classifier);
    }
    let (place, kind) = name.rsplit_once('_')?;
    let (convolution, norm) = if place == "conv1" {
        ("conv1".to_owned(), "bn1".to_owned())
    } else {
        let mut parts = place.split('_');
        let stage: usize = parts.next()?.strip_prefix("conv")?.parse().ok()?;
        let block: usize = parts.next()?.strip_prefix("block")?.parse().ok()?;
        let slot = parts.next()?;
        if parts.next().is_some() || !(2..=5).contains(&stage) || block == 0 {
            return None;
        }
        let module = format!("layer{}.{}", stage - 1, block - 1);
        match slot {
            "0" => (
                format!("{module}.downsample.0"),
                format!("{module}.downsample.1"),
            ),
            "1" | "2" | "3" => (format!("{module}.conv{slot}"), format!("{module}.bn{slot}")),
            _ => return None,
        }
    };
    match kind {
        "conv" => Some(Layer::Convolution {
            name: convolution,
            norm,
        }),
        "bn" => Some(Layer::BatchNorm(norm)),
        _ => None,
    }
}

/// The places of the 53 convolutions of a ResNet-50 in the order in which Keras counts them when it
/// leaves the names out, each without its `_conv` or `_bn`.
///
/// Keras orders the layers of a functional model by their distance from the output, ties by the order
/// of inputs. The shortcut is as far away as the third convolution and comes in first at the
/// addition, so it stands between the second and the third.
pub(super) fn counted_places() -> Vec<String> {
    const DEPTHS: [usize; 4] = [3, 4, 6, 3];
    let mut places = vec!["conv1".to_owned()];
    for (stage, depth) in (2..).zip(DEPTHS) {
        for block in 1..=depth {
            let slots = if block == 1 { "1203" } else { "123" };
            places.extend(
                slots
                    .chars()
                    .map(|slot| format!("conv{stage}_block{block}_{slot}")),
            );
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_every_kind_find_their_module() {
        let convolution = |name: &str, norm: &str| {
            Some(Layer::Convolution {
                name: name.to_owned(),
                norm: norm.to_owned(),
            })
        };
        assert_eq!(layer("conv1_conv"), convolution("conv1", "bn1"));
        assert_eq!(
            layer("conv2_block1_0_conv"),
            convolution("layer1.0.downsample.0", "layer1.0.downsample.1")
        );
        assert_eq!(
            layer("conv4_block6_2_conv"),
            convolution("layer3.5.conv2", "layer3.5.bn2")
        );
        assert_eq!(
            layer("conv5_block3_3_bn"),
            Some(Layer::BatchNorm("layer4.2.bn3".to_owned()))
        );
        assert_eq!(layer("predictions"), Some(Layer::Classifier));
        assert_eq!(layer("dense_2"), Some(Layer::Classifier));
    }

    #[test]
    fn other_names_find_none() {
        for name in [
            "conv6_block1_1_conv",
            "conv2_block0_1_conv",
            "conv2_block1_4_conv",
            "conv2_block1_1_relu",
            "conv2_block1_preact_bn",
            "conv2_block1_1_1_conv",
            "dense_layer",
            "",
        ] {
            assert_eq!(layer(name), None, "{name}");
        }
    }

    #[test]
    fn all_53_counted_places_are_convolutions_of_their_own() {
        let names: std::collections::BTreeSet<String> = counted_places()
            .iter()
            .map(|place| match layer(&format!("{place}_conv")) {
                Some(Layer::Convolution { name, .. }) => name,
                other => panic!("{place}: {other:?}"),
            })
            .collect();
        assert_eq!(names.len(), 53);
    }
}
