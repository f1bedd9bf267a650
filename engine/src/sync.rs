//! What `bell/queue.rs` is built from: its model test puts loom's types in this place.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::AtomicBool;
