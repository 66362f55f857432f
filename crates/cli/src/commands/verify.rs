//! `danaus verify`

use std::io::{BufRead, BufReader};
use std::time::Instant;

use anyhow::{Context, bail};
use danaus_engine::padding::{Window, distance, encode, equal_pairs};
use danaus_engine::{Backend, Padding, Pooling, Text};
use danaus_model::truncate;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::{padding, setup, stdout};

/// One text: what fast padding did to it.
#[derive(Debug, Serialize)]
struct Line {
    tokens: usize,
    /// The share of pairs of its tokens that are equal.
    equal_pairs: f64,
    /// Rows that are computed, by pooling (mean, cls, model); the model's length where the text is computed exactly.
    rows: [usize; 3],
    /// 1 - cosine to the exact vector, by pooling.
    errors: [f64; 3],
    /// For mean pooling; none where the text is computed exactly.
    fast_ms: Option<f64>,
    /// None where the text is computed exactly for every pooling.
    exact_ms: Option<f64>,
}

/// Measures fast padding against exact padding on the user's own texts.
pub fn run(args: VerifyArgs) -> anyhow::Result<()> {
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let tokenizer = setup::tokenizer(args.tokenizer.file.as_deref(), model.config.vocab_size)?;
    if !padding::load(&padding::store(&args.compute, &options, &model, &*backend), &*backend)? {
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
        let fast = lines.iter().filter(|line| line.rows[pooling as usize] < backend.max_tokens());
        let errors: Vec<_> = fast.map(|line| line.errors[pooling as usize]).collect();
        let within = errors.iter().filter(|&&error| error <= bound).count();
        stdout::print(format_args!(
            "{pooling}: {} of {} texts are computed fast, {within} of these within {bound:e}; the largest error is {:.1e}",
            errors.len(),
            lines.len(),
            errors.iter().copied().fold(0.0, f64::max)
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
    let texts = Pooling::ALL.map(|pooling| backend.text(ids, pooling, Padding::Fast));
    let rows = texts.each_ref().map(|text| text.window.cost());
    let mut line = Line {
        tokens: ids.len(),
        equal_pairs: equal_pairs(ids),
        rows,
        errors: [0.0; 3],
        fast_ms: None,
        exact_ms: None,
    };
    let is_fast = |text: &&Text<'_>| text.window.padding == Padding::Fast;
    if !texts.iter().any(|text| is_fast(&text)) {
        // Nothing to compare with itself.
        return Ok(line);
    }
    let started = Instant::now();
    let exact = encode(backend, ids, &Window::exact(backend.max_tokens()))?;
    line.exact_ms = Some(started.elapsed().as_secs_f64() * 1e3);
    for text in texts.iter().filter(is_fast) {
        let pooling = text.pooling as usize;
        let fast = backend.embed(std::slice::from_ref(text))?;
        line.errors[pooling] = distance(&fast[0], &exact[pooling]);
        if text.pooling == Pooling::Mean {
            // Once more, now that its filters are there.
            let started = Instant::now();
            backend.embed(std::slice::from_ref(text))?;
            line.fast_ms = Some(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(line)
}

fn print(line: &Line, first: bool) -> anyhow::Result<()> {
    if first {
        stdout::print("  tokens  equal     rows      mean       cls     model     fast ms    exact ms")?;
    }
    let [mean, cls, model] =
        line.errors.map(|error| if error > 0.0 { format!("{error:.1e}") } else { "exact".to_owned() });
    let [fast, exact] =
        [line.fast_ms, line.exact_ms].map(|ms| ms.map_or(String::new(), |ms| format!("{ms:.2}")));
    stdout::print(format_args!(
        "{:>8} {:>6.3} {:>8} {mean:>9} {cls:>9} {model:>9} {fast:>11} {exact:>11}",
        line.tokens, line.equal_pairs, line.rows[0]
    ))
}
