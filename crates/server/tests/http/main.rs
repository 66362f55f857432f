//! The HTTP contract, against a real engine: a small synthetic model on the CPU and the real tokenizer.

mod access;
mod documents;
mod embed;
mod errors;
mod metrics;
mod openai;
mod padding;
mod scheduling;
mod serving;
mod sharing;
mod status;
mod support;
mod tei;
