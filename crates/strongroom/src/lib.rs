//! The strongroom library.
