//! One module per subcommand: `run` takes its arguments and does it.

pub mod bench;
pub mod doctor;
pub mod download;
pub mod embed;
pub mod health;
pub mod info;
pub mod prepare;
pub mod search;
pub mod serve;
pub mod synth;
pub mod verify;
