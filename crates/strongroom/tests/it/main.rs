//! The library as its users see it: one binary, a file per behaviour.

mod schema_bounds;
mod schema_confusion;
mod schema_fixtures;
mod schema_identity;
mod schema_properties;
mod schema_support;
mod schema_tolerance;
mod schema_write;
