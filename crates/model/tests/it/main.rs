//! Tests of the crate's public face.

mod checkpoint;
mod common;
mod config;
mod damage;
mod families;
mod folder;
mod hub;
mod source;
mod synthetic;
mod tokenizer;
mod torch;
