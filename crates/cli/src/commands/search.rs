//! `danaus search`

mod passages;

use std::collections::HashSet;
use std::io::IsTerminal;

use danaus_engine::{Backend, Padding, Pooling, finish};
use danaus_model::{Tokenizer, truncate};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::passages::{Library, Passage};
use crate::args::SearchArgs;
use crate::{padding, setup, stdout};

/// Characters that are shown of a passage.
const SHOWN: usize = 160;

/// A document and its passage that is nearest to the query.
#[derive(Debug, Serialize)]
struct Found<'a> {
    /// Cosine of the two vectors.
    score: f32,
    file: String,
    line: usize,
    text: &'a str,
}

pub fn run(args: SearchArgs) -> anyhow::Result<()> {
    args.compute.backend_options().check()?;
    let library = Library::read(&args.paths)?;
    let (files, passages, skipped) = (library.files.len(), library.passages.len(), library.skipped);
    tracing::info!(files, passages, skipped, "read");
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let padding = padding::choose(&args.compute, &options, &model, &*backend)?;
    let tokenizer = setup::tokenizer(args.tokenizer.file.as_deref(), model.config.vocab_size)?;
    drop(model);
    let embedder = Embedder { backend: &*backend, tokenizer, padding };
    if embedder.tokenizer.encode_ids(&args.query, backend.max_tokens())?.len() > backend.max_tokens() {
        tracing::warn!(
            tokens = backend.max_tokens(),
            "the query is longer than the model takes: its end is left out"
        );
    }
    let mut query = Vec::new();
    embedder.embed(&[&args.query], |vector| query = vector)?;
    let progress = progress_bar(passages);
    let texts: Vec<_> = library.passages.iter().map(|passage| passage.text.as_str()).collect();
    let mut scores = Vec::with_capacity(passages);
    let outcome = embedder.embed(&texts, |vector| {
        scores.push(cosine(&vector, &query));
        progress.inc(1);
    });
    progress.finish_and_clear();
    outcome?;
    for found in best(&library, &scores, args.most) {
        print(&found, args.json)?;
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(passages: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} passages, {eta} left");
    ProgressBar::new(passages as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Embedder<'a> {
    backend: &'a dyn Backend,
    tokenizer: Tokenizer,
    padding: Padding,
}

impl Embedder<'_> {
    /// Hands over the unit vector of each text, in order; texts are cut where they are longer than the model takes.
    fn embed(&self, texts: &[&str], mut each: impl FnMut(Vec<f32>)) -> anyhow::Result<()> {
        let (most, pooling, padding) = (self.backend.max_tokens(), Pooling::Mean, self.padding);
        let (mut batch, mut tokens): (Vec<Vec<u32>>, usize) = (Vec::new(), 0);
        let together = setup::tokens_together(self.backend);
        for (index, text) in texts.iter().enumerate() {
            let mut ids = self.tokenizer.encode_ids(text, most)?;
            truncate(&mut ids, most);
            tokens += ids.len();
            batch.push(ids);
            if tokens >= together || index + 1 == texts.len() {
                let texts: Vec<_> =
                    batch.iter().map(|ids| self.backend.text(ids, pooling, padding)).collect();
                for pooled in self.backend.embed(&texts)? {
                    each(finish(pooled, None, true)?);
                }
                batch.clear();
                tokens = 0;
            }
        }
        Ok(())
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

/// Each file's best passage, of the `most` best files.
fn best<'a>(library: &'a Library, scores: &[f32], most: usize) -> Vec<Found<'a>> {
    let mut order: Vec<_> = library.passages.iter().zip(scores).collect();
    order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let mut seen = HashSet::new();
    let firsts = order.into_iter().filter(|(passage, _)| seen.insert(passage.file)).take(most);
    let found = firsts.map(|(Passage { file, line, text }, &score)| {
        let file = library.files[*file].display().to_string();
        Found { score, file, line: *line, text }
    });
    found.collect()
}

fn print(found: &Found, json: bool) -> anyhow::Result<()> {
    if json {
        return stdout::print(serde_json::to_string(found)?);
    }
    let words: Vec<_> = found.text.split_whitespace().collect();
    let text = words.join(" ");
    let more = if text.chars().count() > SHOWN { "…" } else { "" };
    // What a terminal would obey belongs neither to a name nor to a text.
    let plain = |text: &str, most| text.chars().filter(|c| !c.is_control()).take(most).collect::<String>();
    let (file, text) = (plain(&found.file, usize::MAX), plain(&text, SHOWN));
    stdout::print(format_args!("{:.3}  {file}:{}\n       {text}{more}", found.score, found.line))
}
