//! The HTTP contract, against a real engine: a small synthetic model on the CPU and the real tokenizer.

mod access;
mod connections;
mod devices;
mod documents;
mod embed;
mod errors;
#[path = "../../../engine/tests/common/faulty.rs"]
mod faulty;
mod heads;
mod listening;
mod metrics;
mod openai;
mod padding;
mod preparing;
mod running;
mod scheduling;
mod serving;
mod sharing;
mod status;
mod support;
mod tei;
