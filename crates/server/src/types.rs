//! Requests and responses, with their OpenAPI schemas: a file per API, and what they share.

pub(crate) mod danaus;
mod input;
pub(crate) mod openai;
mod schema;
pub(crate) mod tei;

pub(crate) use input::{Dimensions, Object, OneOrMany, PaddingName, PoolingName, TextInput, TextList};
