//! The built binary as a process: what a user, a script or a platform sees of it.
//!
//! One test binary, so that it is linked once. No test asserts how long something takes; every wait has an end, so that
//! what hangs fails.

mod bench;
mod builtin;
mod collector;
mod common;
mod deploy;
mod devices;
mod embed;
/// A server that speaks the hub's protocol: the same that the hub's client is tested with.
#[path = "../../../model/tests/it/hub/server.rs"]
#[allow(dead_code)] // the ways in which it can fail are tested there
mod fake_hub;
mod hub;
mod info;
mod logs;
mod net;
mod output;
mod padding;
mod padding_kept;
mod search;
mod serve;
mod server;
mod shutdown;
mod synth;
mod traces;
mod usage;
