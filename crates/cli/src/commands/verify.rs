//! `danaus verify`

use std::io::{BufRead, BufReader};
use std::time::Instant;

use anyhow::{Context, bail};
use danaus_engine::padding::distance;
use danaus_engine::{Backend, Padding, Pooling, Text};
use danaus_model::truncate;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::{padding, setup, stdout};

/// One text: what fast padding did to it.
#[derive(Debug, Serialize)]
struct Line {
    tokens: usize,
    /// Rows that were computed for mean pooling; the model's length where the text is computed exactly.
    window: usize,
    /// By pooling: mean, cls, model.
    errors: [f64; 3],
    fast_ms: f64,
    exact_ms: f64,
}

/// Measures fast padding against exact padding on the user's own texts.
pub fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let tokenizer = setup::tokenizer(args.tokenizer.as_deref(), model.config.vocab_size)?;
    if !padding::load(&padding::store(&args.compute, &options, &model, &*backend), &*backend) {
        bail!(
            "fast padding is not prepared for this model, dtype and error: run danaus prepare with the same options"
        );
    }
    drop(model);
    setup::warm_up(&*backend)?;
    let mut lines = Vec::new();
    for text in texts(&args)? {
        let mut ids = tokenizer.encode_ids(&text, usize::MAX)?;
        truncate(&mut ids, backend.max_tokens());
        let line = measure(&*backend, &ids)?;
        if !args.json {
            print(&line, lines.is_empty())?;
        }
        lines.push(line);
    }
    if args.json {
        return stdout::print(serde_json::to_string_pretty(&lines)?);
    }
    let bound = args.compute.fast.padding_error;
    for pooling in Pooling::ALL {
        let errors = || lines.iter().map(|line| line.errors[pooling as usize]);
        let within = errors().filter(|&error| error <= bound).count();
        let largest = errors().fold(0.0, f64::max);
        stdout::print(format_args!(
            "{pooling}: {within} of {} texts within {bound:e}, the largest error is {largest:.1e}",
            lines.len()
        ))?;
    }
    Ok(())
}

/// The texts to measure.
fn texts(args: &VerifyArgs) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut read = |reader: &mut dyn BufRead| {
        let lines = reader.lines().filter(|line| !line.as_ref().is_ok_and(|line| line.trim().is_empty()));
        for line in lines.take(args.most.saturating_sub(texts.len())) {
            texts.push(line?);
        }
        std::io::Result::Ok(())
    };
    if args.files.is_empty() {
        read(&mut std::io::stdin().lock()).context("standard input")?;
    }
    for file in &args.files {
        let opened = std::fs::File::open(file).map(BufReader::new);
        opened
            .and_then(|mut reader| read(&mut reader))
            .with_context(|| format!("{} cannot be read", file.display()))?;
    }
    if texts.is_empty() {
        bail!("there is no text to measure: expected one a line");
    }
    Ok(texts)
}

fn measure(backend: &dyn Backend, ids: &[u32]) -> anyhow::Result<Line> {
    // One exact pass serves all poolings.
    let whole = danaus_engine::padding::Window { rows: backend.max_tokens(), far_field: None };
    let started = Instant::now();
    let exact = backend.windows().encode(ids, whole, &mut [])?;
    let exact_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut line = Line {
        tokens: ids.len(),
        window: backend.rows(&Text { ids, pooling: Pooling::Mean, padding: Padding::Fast }),
        errors: [0.0; 3],
        fast_ms: 0.0,
        exact_ms,
    };
    for pooling in Pooling::ALL {
        let text = Text { ids, pooling, padding: Padding::Fast };
        if backend.rows(&text) == backend.max_tokens() {
            if pooling == Pooling::Mean {
                line.fast_ms = exact_ms;
            }
            continue;
        }
        backend.embed(&[text])?;
        let started = Instant::now();
        let fast = backend.embed(&[text])?.remove(0);
        if pooling == Pooling::Mean {
            line.fast_ms = started.elapsed().as_secs_f64() * 1e3;
        }
        line.errors[pooling as usize] = distance(&fast, &exact[pooling as usize]);
    }
    Ok(line)
}

fn print(line: &Line, first: bool) -> anyhow::Result<()> {
    if first {
        stdout::print("  tokens   window      mean       cls     model     fast ms    exact ms")?;
    }
    let [mean, cls, model] = line.errors;
    stdout::print(format_args!(
        "{:>8} {:>8} {mean:>9.1e} {cls:>9.1e} {model:>9.1e} {:>11.2} {:>11.2}",
        line.tokens, line.window, line.fast_ms, line.exact_ms
    ))
}
