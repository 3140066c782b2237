//! The kinds of failure, one per exit code, and the form in which a failure travels between ranks.
//!
//! Every layer has an error enum of its own, by cause, with the data in fields and the cause as
//! `source()`. Each of them says its [`Kind`] through [`Classify`]; at the top a [`Failure`] holds
//! the kind and the rendered chain, which is all that other ranks and the terminal need.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, in the granularity of the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An option or argument is wrong.
    Usage,
    /// No image was found, or too many of them are bad.
    Input,
    /// A file system or an object store refused.
    Io,
    /// A numerical check failed.
    Numerical,
    /// Weights are missing, damaged or of another network.
    Weights,
    /// A defect of p8 itself.
    Internal,
    /// A signal stopped the run; its finished blocks are kept.
    Stopped,
}

impl Kind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Kind; 7] = [
        Kind::Usage,
        Kind::Input,
        Kind::Io,
        Kind::Numerical,
        Kind::Weights,
        Kind::Internal,
        Kind::Stopped,
    ];

    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Io => 4,
            Kind::Numerical => 5,
            Kind::Weights => 6,
            Kind::Internal => 70,
            Kind::Stopped => 75,
        }
    }

    /// The kind that ends with this exit code.
    pub fn from_exit_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.exit_code() == code)
    }
}

/// An error that knows its kind. Implement it with one exhaustive `match`, without a wildcard arm.
pub trait Classify: StdError {
    /// The kind of this error.
    fn kind(&self) -> Kind;
}

/// A failure as it travels between ranks and to the terminal: its kind and the whole chain as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What, on what: cause: deeper cause.
    pub text: String,
}

impl Failure {
    /// A failure that has no error value behind it.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Failure {
            kind,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(error.kind(), chain(&error))
    }
}

/// Renders an error and its causes on one line, each once.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_exit_code(kind.exit_code()), Some(kind));
        }
        assert_eq!(Kind::from_exit_code(0), None);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read \"a.jpg\"")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "cannot read \"a.jpg\": disk on fire");
    }
}
