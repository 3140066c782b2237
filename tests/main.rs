//! One test binary: the list of subjects.

mod scripts;
