//! The model in its file, and back again.

use crate::error::{Failure, Kind};
use crate::output::model_file::ModelFile;
use crate::output::shard::Provenance;
use crate::pca::{Evidence, Model, Precision, Solver};
use clap::ValueEnum;
use ndarray::Array2;
use std::str::FromStr;

/// The entries of the metadata that tell of the fit; all others tell what the features are.
const OF_THE_FIT: [&str; 10] = [
    "standardize",
    "whiten",
    "solver",
    "solver_reason",
    "pca_precision",
    "k_reason",
    "n",
    "numerical_rank",
    "total_variance",
    "p8_version",
];

/// The model as it is stored, with where its features come from.
pub fn to_file(model: &Model, provenance: &Provenance) -> ModelFile {
    let metadata = [
        ("standardize", model.standardized.to_string()),
        ("whiten", model.whiten.to_string()),
        ("solver", model.solver.as_str().into()),
        ("solver_reason", model.solver_reason.clone()),
        ("pca_precision", model.precision.as_str().into()),
        ("k_reason", model.k_reason.clone()),
        ("n", model.n.to_string()),
        ("numerical_rank", model.numerical_rank.to_string()),
        // The shortest decimal that reads back as the same number.
        ("total_variance", format!("{:?}", model.total_variance)),
        ("p8_version", env!("CARGO_PKG_VERSION").into()),
    ];
    let of_the_fit = metadata
        .into_iter()
        .map(|(key, value): (&str, String)| (key.to_string(), value));
    ModelFile {
        metadata: provenance.clone().into_iter().chain(of_the_fit).collect(),
        mean: model.mean.clone(),
        scale: model.scale.clone(),
        components: model.components.iter().copied().collect(),
        singular_values: model.singular_values.clone(),
        explained_variance: model.explained_variance.clone(),
        explained_variance_ratio: model.explained_variance_ratio.clone(),
    }
}

/// The model of a file, bit for bit the one that was stored, and where its features come from; the
/// latter is empty where p8 did not compute them.
///
/// # Errors
/// When the metadata lack an entry, or a number is not finite.
pub fn from_file(file: ModelFile) -> Result<(Model, Provenance), Failure> {
    let (d, k) = (file.d(), file.k());
    let numbers = [
        &file.mean,
        &file.scale,
        &file.components,
        &file.singular_values,
        &file.explained_variance,
        &file.explained_variance_ratio,
    ];
    if numbers.into_iter().flatten().any(|x| !x.is_finite()) {
        return Err(unusable("it holds a number that is not finite"));
    }
    let metadata = &file.metadata;
    let solver = entry(metadata, "solver")?;
    let precision = entry(metadata, "pca_precision")?;
    let model = Model {
        n: parsed(metadata, "n")?,
        components: Array2::from_shape_vec((k, d), file.components)
            .map_err(|error| unusable(&error.to_string()))?,
        mean: file.mean,
        scale: file.scale,
        singular_values: file.singular_values,
        explained_variance: file.explained_variance,
        explained_variance_ratio: file.explained_variance_ratio,
        total_variance: parsed(metadata, "total_variance")?,
        numerical_rank: parsed(metadata, "numerical_rank")?,
        standardized: parsed(metadata, "standardize")?,
        whiten: parsed(metadata, "whiten")?,
        k_reason: entry(metadata, "k_reason")?.to_string(),
        solver: Solver::from_str(solver, false).map_err(|_| malformed("solver", solver))?,
        precision: Precision::from_str(precision, false)
            .map_err(|_| malformed("pca_precision", precision))?,
        evidence: Evidence::default(),
        solver_reason: entry(metadata, "solver_reason")?.to_string(),
    };
    let mut provenance = file.metadata;
    provenance.retain(|key, _| !OF_THE_FIT.contains(&key.as_str()));
    Ok((model, provenance))
}

/// An entry of the metadata.
///
/// # Errors
/// When it is not there.
pub fn entry<'a>(metadata: &'a Provenance, key: &str) -> Result<&'a str, Failure> {
    metadata
        .get(key)
        .map(String::as_str)
        .ok_or_else(|| unusable(&format!("its metadata have no {key}")))
}

fn parsed<T: FromStr>(metadata: &Provenance, key: &str) -> Result<T, Failure> {
    let text = entry(metadata, key)?;
    text.parse().map_err(|_| malformed(key, text))
}

/// The failure of an entry that cannot be understood.
pub fn malformed(key: &str, text: &str) -> Failure {
    unusable(&format!("its metadata say {key} = {text:?}"))
}

fn unusable(cause: &str) -> Failure {
    Failure::new(Kind::Io, format!("cannot use the model: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pca::Rank;

    fn model() -> Model {
        Model {
            n: 9,
            mean: vec![1.0, -0.0, 0.1],
            scale: vec![2.0, 0.0, 1e-300],
            components: ndarray::array![[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]],
            singular_values: vec![3.0, 1.0 / 3.0],
            explained_variance: vec![1.125, 1.0 / 72.0],
            explained_variance_ratio: vec![0.9, 0.1],
            total_variance: 1.0 / 7.0,
            numerical_rank: Rank::AtLeast(2),
            standardized: true,
            whiten: true,
            k_reason: "2 components asked for".into(),
            solver: Solver::Wide,
            solver_reason: "9 rows".into(),
            precision: Precision::F32,
            evidence: Evidence::default(),
        }
    }

    fn provenance() -> Provenance {
        [("weights", "keras"), ("layer", "layer4")]
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .into()
    }

    #[test]
    fn a_model_comes_back_with_its_provenance() {
        let mut bytes = Vec::new();
        to_file(&model(), &provenance())
            .write_to(&mut bytes)
            .unwrap();
        let (back, from) = from_file(ModelFile::read(&bytes).unwrap()).unwrap();
        assert_eq!(back, model());
        assert_eq!(back.mean[1].to_bits(), (-0.0f64).to_bits());
        assert_eq!(from, provenance());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let changed = |change: fn(&mut ModelFile)| {
            let mut file = to_file(&model(), &provenance());
            change(&mut file);
            from_file(file).unwrap_err().text
        };
        let said = changed(|file| drop(file.metadata.remove("whiten")));
        assert!(said.contains("no whiten"), "{said}");
        let said = changed(|file| drop(file.metadata.insert("n".into(), "many".into())));
        assert!(said.contains("n = \"many\""), "{said}");
        let said = changed(|file| file.components[4] = f64::NAN);
        assert!(said.contains("not finite"), "{said}");
    }
}
