//! `danaus embed`

mod output;

use std::io::IsTerminal;

use anyhow::{Context, anyhow, bail};
use danaus_engine::{Backend, Padding, Pooling, finish};
use danaus_model::{Tokenizer, truncate};
use indicatif::{ProgressBar, ProgressStyle};

use self::output::{Output, Target};
use crate::args::{EmbedArgs, InputFormat};
use crate::rows::{Place, Row, Rows};
use crate::{padding, setup};

/// A text is counted up to this multiple of the model's length; beyond, the exact number is not worth its time.
const COUNTED_LENGTHS: usize = 4;

pub fn run(args: EmbedArgs) -> anyhow::Result<()> {
    args.compute.backend_options().check()?;
    let rows = Rows::new(args.input, &args.files)?;
    if args.files.is_empty() && std::io::stdin().is_terminal() {
        tracing::info!("reading rows from the terminal, up to Ctrl-D");
    }
    let target = Target::open(args.out.as_deref())?;
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let padding = padding::choose(&args.compute, &options, &model, &*backend)?;
    let vocabulary = model.config.vocab_size;
    let tokenizer = match args.input {
        // Ids need none, and so may be of a model that the built-in one does not fit.
        InputFormat::Ids => None,
        InputFormat::Text | InputFormat::Jsonl => {
            Some(setup::tokenizer(args.text.tokenizer.file.as_deref(), vocabulary)?)
        }
    };
    drop(model);
    let output = Output::new(args.output, target, backend.dimension())?;
    let progress = progress_bar(&args);
    let job =
        Job { args: &args, backend: &*backend, padding, tokenizer, vocabulary, progress: progress.clone() };
    let outcome = job.run(rows, output);
    progress.finish_and_clear();
    let Summary { rows, tokens, skipped } = outcome?;
    tracing::info!(rows, tokens, skipped, "embedded");
    Ok(())
}

struct Job<'a> {
    args: &'a EmbedArgs,
    backend: &'a dyn Backend,
    padding: Padding,
    /// Present where rows are texts.
    tokenizer: Option<Tokenizer>,
    vocabulary: usize,
    progress: ProgressBar,
}

#[derive(Default)]
struct Summary {
    rows: u64,
    tokens: u64,
    skipped: u64,
}

impl Job<'_> {
    fn run(&self, mut rows: Rows, mut output: Output) -> anyhow::Result<Summary> {
        let mut summary = Summary::default();
        // Ids of each row of the batch; `None` for a bad one that is skipped.
        let mut batch: Vec<Option<Vec<u32>>> = Vec::new();
        let mut tokens = 0;
        let most = setup::tokens_together(self.backend);
        while let Some((place, row)) = rows.next()? {
            let ids = row.and_then(|row| self.ids(row));
            match ids {
                Ok(ids) => {
                    tokens += ids.len();
                    batch.push(Some(ids));
                }
                Err(reason) => {
                    self.report(&place, reason)?;
                    summary.skipped += 1;
                    batch.push(None);
                }
            }
            if tokens >= most || batch.len() >= most {
                self.compute(&mut batch, &mut output, &mut summary)?;
                tokens = 0;
                self.progress.set_position(rows.bytes());
            }
        }
        self.compute(&mut batch, &mut output, &mut summary)?;
        output.finish()?;
        Ok(summary)
    }

    /// A row's token ids, checked against the model's limits, so that an error has the row's place.
    fn ids(&self, row: Row) -> Result<Vec<u32>, String> {
        let max_tokens = self.backend.max_tokens();
        let counted = max_tokens.saturating_mul(COUNTED_LENGTHS);
        let (mut ids, counted) = match row {
            Row::Text(text) => (self.encode(&text, counted)?, counted),
            Row::Ids(ids) => (ids, usize::MAX),
        };
        if ids.is_empty() {
            return Err("expected at least one token id, got an empty list".to_owned());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(format!(
                "token id {id} is not in the vocabulary: its ids are 0 to {}",
                self.vocabulary - 1
            ));
        }
        if ids.len() > max_tokens && !self.args.text.auto_truncate {
            let tokens = ids.len();
            let tokens = if tokens > counted { format!("more than {counted}") } else { tokens.to_string() };
            return Err(format!(
                "{tokens} tokens, but the model takes at most {max_tokens}: see --auto-truncate"
            ));
        }
        truncate(&mut ids, max_tokens);
        Ok(ids)
    }

    fn encode(&self, text: &str, at_most: usize) -> Result<Vec<u32>, String> {
        let tokenizer = self.tokenizer.as_ref().ok_or("expected token ids, got a text")?;
        tokenizer.encode_ids(text, at_most).map_err(|error| error.to_string())
    }

    fn report(&self, place: &Place, reason: String) -> anyhow::Result<()> {
        if !self.args.skip_errors {
            bail!("{place}: {reason}");
        }
        self.progress.suspend(|| tracing::warn!("skipped {place}: {reason}"));
        Ok(())
    }

    /// Embeds and writes the batch, and empties it.
    fn compute(
        &self,
        batch: &mut Vec<Option<Vec<u32>>>,
        output: &mut Output,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        let pooling: Pooling = self.args.text.pooling;
        let texts: Vec<_> =
            batch.iter().flatten().map(|ids| self.backend.text(ids, pooling, self.padding)).collect();
        let mut vectors = self.backend.embed(&texts)?.into_iter();
        for ids in batch.drain(..) {
            let index = summary.rows;
            summary.rows += 1;
            let Some(ids) = ids else {
                output.skip()?;
                continue;
            };
            let pooled = vectors.next().ok_or_else(|| anyhow!("a vector is missing"))?;
            summary.tokens += ids.len() as u64;
            let vector =
                finish(pooled, None, !self.args.no_normalize).with_context(|| format!("row {index}"))?;
            output.write(index, ids.len(), &vector)?;
        }
        Ok(())
    }
}

/// A bar over the files' bytes on a terminal; a spinner where their size is unknown; nothing elsewhere, nor where the
/// rows come to the same terminal.
fn progress_bar(args: &EmbedArgs) -> ProgressBar {
    let rows_are_seen = args.out.is_none() && std::io::stdout().is_terminal();
    if rows_are_seen || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let sizes: Option<Vec<u64>> =
        args.files.iter().map(|file| std::fs::metadata(file).ok().map(|m| m.len())).collect();
    match sizes.filter(|sizes| !sizes.is_empty()) {
        Some(sizes) => {
            let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {eta} left");
            ProgressBar::new(sizes.iter().sum())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        None => {
            let style = ProgressStyle::with_template("{spinner} {bytes} read, {elapsed}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        }
    }
}
