//! Phases of a run and how long each rank spent in them.
