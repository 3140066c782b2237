//! From the names of a PyTorch state dict to torchvision's: wrappers off, what is no weight out.

use std::collections::BTreeMap;
use std::path::Path;

use super::WeightsError;

/// What a checkpoint, `DataParallel` or `torch.compile` puts in front of every name.
const WRAPPERS: [&str; 5] = [
    "state_dict.",
    "model_state_dict.",
    "model.",
    "module.",
    "_orig_mod.",
];

/// The tensor that every ResNet has at its top level; once it is seen, no wrapper is left.
const LANDMARK: &str = "conv1.weight";

/// Which stored tensor gives which tensor of the network.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// From torchvision's name to the name in the file.
    pub kept: BTreeMap<String, String>,
    /// Names in the file that are left out on purpose, sorted.
    pub ignored: Vec<String>,
}

/// Selects among the tensor names of a file.
///
/// A wrapper is taken off while the names do not start at the top level of a network; what lies
/// beside the wrapped names (an optimizer's state) is ignored. So are the classifier and the batch
/// counters.
pub(super) fn select<'a>(
    path: &Path,
    stored: impl Iterator<Item = &'a str>,
) -> Result<Selection, WeightsError> {
    let mut names: Vec<(&str, &str)> = stored.map(|name| (name, name)).collect();
    names.sort_unstable();
    let mut ignored: Vec<String> = Vec::new();
    while !names.iter().any(|(name, _)| *name == LANDMARK) {
        let Some(wrapper) = WRAPPERS
            .into_iter()
            .find(|wrapper| names.iter().any(|(name, _)| name.starts_with(wrapper)))
        else {
            break;
        };
        let mut wrapped = Vec::with_capacity(names.len());
        for (name, stored) in names {
            match name.strip_prefix(wrapper) {
                Some(rest) => wrapped.push((rest, stored)),
                None => ignored.push(stored.to_owned()),
            }
        }
        names = wrapped;
    }

    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    for (name, stored) in names {
        if name.ends_with(".num_batches_tracked") || name.starts_with("fc.") {
            ignored.push(stored.to_owned());
        } else if let Some(first) = kept.insert(name.to_owned(), stored.to_owned()) {
            return Err(WeightsError::Duplicate {
                path: path.to_path_buf(),
                tensor: name.to_owned(),
                first,
                second: stored.to_owned(),
            });
        }
    }
    ignored.sort_unstable();
    Ok(Selection { kept, ignored })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(stored: &[&str]) -> Selection {
        select(Path::new("x.pth"), stored.iter().copied()).unwrap()
    }

    #[test]
    fn plain_names_stay_and_counters_and_classifier_go() {
        let selection = selected(&[
            "conv1.weight",
            "bn1.num_batches_tracked",
            "fc.weight",
            "fc.bias",
            "surplus",
        ]);
        let kept: Vec<&str> = selection.kept.keys().map(String::as_str).collect();
        assert_eq!(kept, ["conv1.weight", "surplus"]);
        assert_eq!(
            selection.ignored,
            ["bn1.num_batches_tracked", "fc.bias", "fc.weight"]
        );
    }

    #[test]
    fn nested_wrappers_come_off_and_what_is_beside_them_is_ignored() {
        let selection = selected(&[
            "state_dict.model.module.conv1.weight",
            "state_dict.model.module.layer1.0.conv1.weight",
            "state_dict.model.module.fc.weight",
            "optimizer.0.exp_avg",
        ]);
        assert_eq!(
            selection.kept.get("layer1.0.conv1.weight").unwrap(),
            "state_dict.model.module.layer1.0.conv1.weight"
        );
        assert_eq!(selection.kept.len(), 2);
        assert_eq!(
            selection.ignored,
            ["optimizer.0.exp_avg", "state_dict.model.module.fc.weight"]
        );
    }

    #[test]
    fn nothing_comes_off_below_the_top_level_of_the_network() {
        let selection = selected(&["conv1.weight", "module.conv1.weight"]);
        assert!(selection.kept.contains_key("module.conv1.weight"));
    }
}
