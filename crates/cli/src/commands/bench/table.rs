//! What `danaus bench` measured, for people.

use super::Measurement;
use crate::stdout;

/// Prints a line, after the headings if it is the first.
pub fn print(row: &Measurement, first: bool) -> anyhow::Result<()> {
    if first {
        stdout::print(HEADINGS)?;
    }
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    stdout::print(format_args!(
        "{:>8} {:>6} {:>10} {:>7} {:>7} {:>9} {:>8} {:>11.2} {:>11.2} {:>10.0} {:>11} {:>10} {:>9}",
        row.length,
        row.batch,
        row.padding,
        row.device,
        row.dtype,
        row.instruction_set,
        row.threads,
        row.median_ms,
        row.min_ms,
        row.tokens_per_second,
        number(row.none_median_ms, 2),
        number(row.times_none, 2),
        number(row.peak_rss_mb, 0)
    ))
}

const HEADINGS: &str = "  length  batch    padding  device   dtype       isa  threads   median ms      min ms   tokens/s     none ms \
                        times none   peak MB";
