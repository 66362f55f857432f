//! API keys: where they come from, without ever showing them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use danaus_server::ApiKeys;

use crate::args::usage_error;

/// An API key as typed. Reading one never fails, since clap would repeat it in its message.
#[derive(Clone)]
pub struct Key(String);

impl FromStr for Key {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(...)")
    }
}

/// The keys of the command line, and those of a file: one a line, without blank ones and those that start with `#`.
pub fn api_keys(given: &[Key], file: Option<&Path>) -> anyhow::Result<ApiKeys> {
    let mut keys: Vec<String> = Vec::new();
    for (place, Key(key)) in given.iter().enumerate() {
        if !is_sendable(key) {
            return Err(usage_error(format!("--api-key, number {}: {EXPECTED}", place + 1)));
        }
        keys.push(key.clone());
    }
    let Some(file) = file else { return Ok(keys.iter().collect()) };
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).with_context(|| format!("--api-key-file {shown} cannot be read"))?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let before = keys.len();
    for (number, key) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if !is_sendable(key) {
            return Err(usage_error(format!("--api-key-file {shown}, line {number}: {EXPECTED}")));
        }
        keys.push(key.to_owned());
    }
    if keys.len() == before {
        return Err(usage_error(format!("--api-key-file {shown} has no key: expected one a line")));
    }
    Ok(keys.iter().collect())
}

const EXPECTED: &str = "expected a key of visible ASCII characters, without blanks";

/// Whether a client can send it in a header.
fn is_sendable(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
}
