//! `repro`: declarative, content-hashed reproduction pipelines.
