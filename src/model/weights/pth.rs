//! `.pth`: PyTorch checkpoints, in the zip container and in the older ones.
//!
//! A pickle is a program that may call anything. The reader underneath interprets the few calls that
//! rebuild tensors and containers and leaves every other one standing as a name; nothing is ever
//! called. A checkpoint that asks for a class outside [`HARMLESS`] is refused all the same: nobody
//! should pass it on to a program that does run it.

use std::collections::BTreeMap;
use std::path::Path;

use pytorch_reader::{DType, PickleValue, PytorchError, PytorchReader};

use super::elements::{Element, to_f32};
use super::{Contents, Family, ForeignError, Format, Tensor, Trained, WeightsError, names};

/// Packages whose objects are common beside honest weights: settings, dates, device names.
const HARMLESS: [&str; 9] = [
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "collections",
    "argparse",
    "pathlib",
    "datetime",
    "omegaconf",
];

/// Plain values among the built-in names, where `eval` and `exec` live too.
const HARMLESS_BUILTINS: [&str; 7] = [
    "set",
    "frozenset",
    "complex",
    "bytearray",
    "slice",
    "range",
    "object",
];

/// Reads all tensors of the checkpoint.
pub(super) fn read(path: &Path) -> Result<Contents, WeightsError> {
    let damaged = |error: PytorchError| WeightsError::Container {
        path: path.to_path_buf(),
        container: "a PyTorch checkpoint",
        source: ForeignError::new(error),
    };
    let objects = PytorchReader::read_pickle_data(path, None).map_err(damaged)?;
    if let Some(class) = forbidden(&objects) {
        return Err(WeightsError::ForbiddenObject {
            path: path.to_path_buf(),
            class: class.to_owned(),
        });
    }
    let stored = PytorchReader::new(path).map_err(damaged)?.into_tensors();
    let selection = names::select(path, stored.keys().map(String::as_str))?;
    let mut tensors = BTreeMap::new();
    for (name, stored_name) in selection.kept {
        let tensor = &stored[&stored_name];
        let element = match tensor.dtype() {
            DType::F16 => Element::F16,
            DType::BF16 => Element::Bf16,
            DType::F32 => Element::F32,
            DType::F64 => Element::F64,
            other @ (DType::I64
            | DType::I32
            | DType::I16
            | DType::I8
            | DType::U64
            | DType::U32
            | DType::U16
            | DType::U8
            | DType::Bool) => {
                return Err(WeightsError::ElementType {
                    path: path.to_path_buf(),
                    tensor: stored_name,
                    found: format!("{other:?}"),
                });
            }
        };
        // Row-major whatever the strides in the file.
        let bytes = tensor.read().map_err(|source| WeightsError::Tensor {
            path: path.to_path_buf(),
            tensor: stored_name.clone(),
            source: ForeignError::new(source),
        })?;
        let tensor = Tensor {
            shape: tensor.shape().to_vec(),
            data: to_f32(element, &bytes),
        };
        tensors.insert(name, tensor);
    }
    Ok(Contents {
        tensors,
        ignored: selection.ignored,
        format: Format::Pytorch,
        family: Family::Torchvision,
        trained: Trained::of(Family::Torchvision),
    })
}

/// The first object, in depth-first order, of a class that has no place beside weights.
fn forbidden(value: &PickleValue) -> Option<&str> {
    match value {
        PickleValue::List(items) => items.iter().find_map(forbidden),
        PickleValue::Dict(entries) => {
            // Sorted, so that the same file gives the same message.
            let sorted: BTreeMap<_, _> = entries.iter().collect();
            sorted.into_values().find_map(forbidden)
        }
        PickleValue::Unsupported(class) => (!is_harmless(class)).then_some(class.as_str()),
        PickleValue::None
        | PickleValue::Bool(_)
        | PickleValue::Int(_)
        | PickleValue::Float(_)
        | PickleValue::String(_)
        | PickleValue::Bytes(_) => None,
    }
}

fn is_harmless(class: &str) -> bool {
    match class.split_once('.') {
        // A Python type without a module, such as an integer of more than 64 bits.
        None => true,
        Some(("builtins" | "__builtin__", name)) => HARMLESS_BUILTINS.contains(&name),
        Some((package, _)) => HARMLESS.contains(&package) || class == "_codecs.encode",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_runs_on_unpickling_is_forbidden_wherever_it_stands() {
        for class in [
            "posix.system",
            "builtins.eval",
            "__builtin__.exec",
            "os.popen",
        ] {
            let inner = PickleValue::List(vec![
                PickleValue::Int(1),
                PickleValue::Unsupported(class.to_owned()),
            ]);
            let outer = PickleValue::Dict([("note".to_owned(), inner)].into());
            assert_eq!(forbidden(&outer), Some(class));
        }
    }

    #[test]
    fn tensors_and_settings_are_not_forbidden() {
        for class in [
            "torch.Tensor",
            "torch.float32",
            "argparse.Namespace",
            "int",
            "builtins.set",
        ] {
            assert_eq!(forbidden(&PickleValue::Unsupported(class.to_owned())), None);
        }
    }
}
