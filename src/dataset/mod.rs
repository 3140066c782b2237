//! Which images there are, what they are called, and who works on which.

pub mod outcome;
