//! `ringmill doctor` on machines made of files: what it finds, prints, changes and undoes.
#![cfg(feature = "cli")]

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod fixture;
mod measure;
mod probes;
