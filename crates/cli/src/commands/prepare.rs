//! `danaus prepare`

use anyhow::Context;
use danaus_engine::Pooling;
use danaus_engine::padding::{FarFields, Preparation};

use crate::args::PrepareArgs;
use crate::{padding, setup, stdout};

/// Prepares fast padding where it is not yet, and prints what it computes, with the errors that were measured.
pub fn run(args: PrepareArgs) -> anyhow::Result<()> {
    let options = args.model.load_options();
    let (model, backend) = setup::load(&options, &args.compute)?;
    let vocabulary = model.config.vocab_size;
    let tokenizer = setup::tokenizer(args.tokenizer.file.as_deref(), vocabulary)?;
    let store = padding::store(&args.compute, &options, &model, &*backend);
    let store = args.out.as_deref().map_or(store.clone(), |out| store.at(out));
    drop(model);
    if args.force || !padding::load(&store, &*backend)? {
        store.check_writable().context("what is to be prepared could not be kept")?;
        let budget = padding::budget(&args.compute);
        let kept =
            padding::make(&store, &*backend, (&tokenizer, vocabulary), budget, &Preparation::default())?;
        kept.context("what was prepared cannot be kept")?;
    }
    if let Some(far_fields) = backend.far_fields() {
        print(&far_fields)?;
    }
    stdout::print(store.path().display())
}

/// A line for each range of lengths.
fn print(far_fields: &FarFields) -> anyhow::Result<()> {
    stdout::print(
        "      tokens   window   sketch  recorded      mean       cls     model   (largest 1 - cosine of the tests)",
    )?;
    for bin in far_fields.bins() {
        let errors = Pooling::ALL.map(|pooling| {
            let mark = match bin.most_equal[pooling as usize] {
                None => '*',
                Some(most) if most < 0.1 => '+',
                Some(_) => ' ',
            };
            format!("{:.1e}{mark}", bin.errors[pooling as usize])
        });
        let [mean, cls, model] = &errors;
        stdout::print(format_args!(
            "{:>5}-{:<6} {:>8} {:>8} {:>9} {mean:>9} {cls:>9} {model:>9}",
            bin.shortest, bin.longest, bin.window, bin.sketch, bin.probes
        ))?;
    }
    let bound = far_fields.bound();
    stdout::print(format_args!("* Too near the bound of {bound:e}: not used."))?;
    stdout::print("+ Used for texts that repeat few of their tokens.")?;
    stdout::print("What is not in the table, or not used, is computed exactly.")?;
    stdout::print(format_args!("{} MB", far_fields.bytes() / 1_000_000))
}
