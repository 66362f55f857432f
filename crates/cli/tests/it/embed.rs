//! `danaus embed`: rows in, rows out.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::{
    Embedded, Run, SMALL_DIMENSION, bits, danaus, danaus_with, embed_lines, rows, run, run_with, small_model,
};

/// Texts of several lengths, one empty, with what JSON must escape.
const TEXTS: [&str; 6] = [
    "What is machine learning?",
    "",
    "a \"quoted\" \\ text\twith tabs",
    "naïve façade — 日本語 🦋",
    "x",
    "the end of it all",
];

fn embed(args: &str, input: &[u8]) -> Run {
    run_with(&mut danaus_with(small_model(), &format!("embed {args}")), input)
}

fn jsonl(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect()
}

/// Folder with files of these names and contents.
fn files(contents: &[(&str, &[u8])]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let write = |(name, content): &(&str, &[u8])| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let paths = contents.iter().map(write).collect();
    (folder, paths)
}

/// A NumPy array [rows, columns] of float32: its columns, and its rows.
pub fn npy(bytes: &[u8]) -> (usize, Vec<Vec<f32>>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(header_end % 64, 0);
    let header = std::str::from_utf8(&bytes[10..header_end]).unwrap();
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "{header}");
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let (count, columns) = shape.split_once(", ").unwrap();
    let (count, columns): (usize, usize) = (count.parse().unwrap(), columns.parse().unwrap());
    let values: Vec<f32> = bytes[header_end..]
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    assert_eq!(bytes.len(), header_end + count * columns * 4);
    (columns, values.chunks_exact(columns).map(<[f32]>::to_vec).collect())
}

#[test]
fn one_row_for_each_line_in_order_with_index_tokens_and_a_unit_vector() {
    let rows = embed_lines("", &(TEXTS.join("\n") + "\n"));
    assert_eq!(rows.iter().map(|row| row.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    // [CLS], what is machine learning ?, [SEP]; the empty text has the two special tokens.
    assert_eq!(rows[..2].iter().map(|row| row.tokens).collect::<Vec<_>>(), [7, 2]);
    for row in &rows {
        assert_eq!(row.embedding.len(), SMALL_DIMENSION);
        let norm: f64 = row.embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
    let distinct: std::collections::BTreeSet<_> = rows.iter().map(Embedded::bits).collect();
    assert_eq!(distinct.len(), TEXTS.len());
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_the_threads() {
    let lines = TEXTS.join("\n") + "\n";
    let together = embed_lines("", &lines);
    assert_eq!(embed_lines("--threads 1", &lines), together);
    let mut reversed =
        embed_lines("--threads 3", &(TEXTS.iter().rev().copied().collect::<Vec<_>>().join("\n") + "\n"));
    reversed.reverse();
    for (index, (text, row)) in TEXTS.iter().zip(&together).enumerate() {
        assert_eq!(reversed[index].bits(), row.bits(), "{text:?}");
        assert_eq!(embed_lines("", &format!("{text}\n"))[0].bits(), row.bits(), "{text:?} alone");
    }
}

/// More rows than are computed at once.
#[test]
fn many_rows_keep_their_order() {
    let lines: String = (0..1500).map(|i| format!("row number {i}\n")).collect();
    let all = embed_lines("", &lines);
    assert_eq!(all.iter().map(|row| row.index).collect::<Vec<_>>(), (0..1500).collect::<Vec<_>>());
    let some = embed_lines("", "row number 0\nrow number 749\nrow number 1499\n");
    for (row, index) in some.iter().zip([0, 749, 1499]) {
        assert_eq!(row.bits(), all[index].bits(), "row {index}");
    }
}

#[test]
fn every_input_format_gives_the_same_rows() {
    let texts = embed_lines("", &(TEXTS.join("\n") + "\n"));
    assert_eq!(embed_lines("--input jsonl", &jsonl(&TEXTS)), texts);
    // As bert-base-uncased has them.
    let ids = "[101, 2054, 2003, 3698, 4083, 1029, 102]\n[101,102]\n";
    assert_eq!(embed_lines("--input ids", ids), texts[..2]);
}

#[test]
fn json_rows_may_have_newlines_in_their_text_and_other_fields() {
    let rows =
        embed_lines("--input jsonl", "{\"id\": 7, \"text\": \"two\\nlines\", \"more\": {\"text\": 1}}\n");
    assert_eq!(
        rows[0].bits(),
        embed_lines("", "two lines\n")[0].bits(),
        "a newline is white space to the tokenizer"
    );
}

#[test]
fn line_endings_do_not_matter() {
    let expected = embed_lines("", "one\ntwo\n");
    assert_eq!(embed_lines("", "one\r\ntwo\r\n"), expected);
    assert_eq!(embed_lines("", "one\ntwo"), expected, "no newline at the end");
    assert_eq!(embed_lines("--input jsonl", "{\"text\": \"one\"}\r\n{\"text\": \"two\"}"), expected);
    // Three byte that some editors put at a file's start.
    assert_eq!(embed_lines("--input jsonl", "\u{feff}{\"text\": \"one\"}\n{\"text\": \"two\"}\n"), expected);
    assert_eq!(embed_lines("", "one\n\ntwo\n").len(), 3, "an empty line is an empty text");
}

#[test]
fn files_and_standard_input_one_after_the_other() {
    let (_folder, paths) = files(&[("a.txt", b"one\ntwo"), ("b.txt", b""), ("c.txt", b"four\n")]);
    let mut command = danaus_with(small_model(), "embed");
    command.args([&paths[0], &paths[1], Path::new("-"), &paths[2]]);
    let got = rows(&run_with(&mut command, b"three\n").exits(0).stdout);
    assert_eq!(got, embed_lines("", "one\ntwo\nthree\nfour\n"));
}

#[test]
fn an_array_has_the_same_vectors() {
    let lines = TEXTS.join("\n");
    let (columns, array) = npy(&embed("--output npy", lines.as_bytes()).exits(0).stdout);
    assert_eq!(columns, SMALL_DIMENSION);
    let expected = embed_lines("", &lines);
    assert_eq!(array.len(), expected.len());
    for (got, expected) in array.iter().zip(&expected) {
        assert_eq!(bits(got), expected.bits());
    }
}

#[test]
fn without_rows_the_output_is_empty_but_whole() {
    assert_eq!(embed("", b"").exits(0).stdout, b"");
    assert_eq!(npy(&embed("--output npy", b"").exits(0).stdout), (SMALL_DIMENSION, Vec::new()));
    let (_folder, paths) = files(&[("empty", b"")]);
    let run = run(danaus_with(small_model(), "embed --output npy").args(&paths)).exits(0);
    assert_eq!(npy(&run.stdout), (SMALL_DIMENSION, Vec::new()));
}

#[test]
fn vectors_as_the_model_pools_them() {
    let raw = embed_lines("--no-normalize", "one two three\n");
    let scaled = embed_lines("", "one two three\n");
    let norm = raw[0].embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() > 1e-3, "{norm}");
    for (raw, scaled) in raw[0].embedding.iter().zip(&scaled[0].embedding) {
        assert!((f64::from(*raw) / norm - f64::from(*scaled)).abs() < 1e-6);
    }
}

#[test]
fn poolings_and_paddings_are_different_vectors() {
    let [plain, cls, model, padded] = ["", "--pooling cls", "--pooling model", "--padding max-length"]
        .map(|args| embed_lines(args, "one two three\n")[0].bits());
    assert!(plain != cls && cls != model && model != plain && padded != plain);
}

#[test]
fn a_bad_row_stops_the_run_and_says_where_it_is() {
    for (format, input, line, reason) in [
        ("text", &b"good\n\xff\xfe bad\n"[..], 2, "expected UTF-8 text"),
        ("jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"txt\": \"c\"}\n", 3, "missing field `text`"),
        ("jsonl", b"{\"text\": 5}\n", 1, "expected {\"text\": \"...\"}: invalid type: integer `5`"),
        ("jsonl", b"{\"text\": \"a\"}\n\n", 2, "the line is empty"),
        ("jsonl", b"{\"text\": \"a\"", 1, "EOF"),
        ("ids", b"[101, 102]\n[]\n", 2, "at least one token id"),
        ("ids", b"[101, 30528]\n", 1, "token id 30528 is not in the vocabulary: its ids are 0 to 30527"),
        ("ids", b"[101, -1]\n", 1, "expected a JSON list of token ids"),
        ("ids", b"101 102\n", 1, "expected a JSON list of token ids"),
        ("ids", b"[4294967296]\n", 1, "expected a JSON list of token ids"),
    ] {
        let place = format!("standard input, line {line}: ");
        embed(&format!("--input {format}"), input).fails(1, &[&place, reason]);
    }
}

#[test]
fn a_bad_row_of_a_file_is_named_with_its_file() {
    let (_folder, paths) = files(&[("a.txt", b"one\ntwo\n"), ("b.txt", b"three\n\xc3\n")]);
    let place = format!("{}, line 2: expected UTF-8", paths[1].display());
    run(danaus_with(small_model(), "embed").args(&paths)).fails(1, &[&place]);
}

/// Bad rows at the start, in the middle, two in a row, and at the end.
const SOME_BAD: &str = "bad\n[101, 2028, 102]\n[]\n[9999999]\n[101, 2048, 102]\n{}";

#[test]
fn skipped_rows_are_reported_and_counted_and_leave_the_others_in_place() {
    let good = embed_lines("--input ids", "[101, 2028, 102]\n[101, 2048, 102]\n");
    let run = embed("--input ids --skip-errors", SOME_BAD.as_bytes()).exits(0);
    let got = rows(&run.stdout);
    assert_eq!(got.iter().map(|row| row.index).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(got.iter().map(Embedded::bits).collect::<Vec<_>>(), [good[0].bits(), good[1].bits()]);
    for line in [1, 3, 4, 6] {
        let report = format!("skipped standard input, line {line}: ");
        assert_eq!(run.stderr.matches(&report).count(), 1, "{}", run.stderr);
    }
    assert!(run.stderr.contains("rows=6") && run.stderr.contains("skipped=4"), "{}", run.stderr);
    let json = embed("--input ids --skip-errors --log-format json", SOME_BAD.as_bytes()).exits(0);
    let lines: Vec<serde_json::Value> = json
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let skipped =
        |line: &&serde_json::Value| line["message"].as_str().is_some_and(|m| m.starts_with("skipped"));
    assert_eq!(lines.iter().filter(skipped).count(), 4);
    assert_eq!(lines.last().unwrap()["skipped"], 4);
}

#[test]
fn skipped_rows_of_an_array_are_nan() {
    let good = embed_lines("--input ids", "[101, 2028, 102]\n[101, 2048, 102]\n");
    let run = embed("--input ids --skip-errors --output npy", SOME_BAD.as_bytes()).exits(0);
    let (_, array) = npy(&run.stdout);
    assert_eq!(array.len(), 6);
    for (index, row) in array.iter().enumerate() {
        match index {
            1 => assert_eq!(bits(row), good[0].bits()),
            4 => assert_eq!(bits(row), good[1].bits()),
            _ => assert!(row.iter().all(|value| value.is_nan()), "row {index}"),
        }
    }
}

#[test]
fn all_rows_bad_is_no_rows() {
    assert_eq!(embed("--input ids --skip-errors", b"a\nb\n").exits(0).stdout, b"");
    let (_, array) = npy(&embed("--input ids --skip-errors --output npy", b"a\nb\n").exits(0).stdout);
    assert_eq!(array.len(), 2);
}

#[test]
fn a_text_over_the_models_length_is_refused_or_cut() {
    // 300 tokens with the two special ones: the longest that fits.
    let fits = vec!["word"; 298].join(" ");
    let longer = format!("{fits} word");
    let longest = embed_lines("", &format!("{fits}\n"));
    assert_eq!(longest[0].tokens, 300);
    let refusal = "standard input, line 2: 301 tokens, but the model takes at most 300: see --auto-truncate";
    embed("", format!("ok\n{longer}\n").as_bytes()).fails(1, &[refusal]);
    let cut = embed_lines("--auto-truncate", &format!("{longer}\n{fits}\n"));
    assert_eq!(cut[0].tokens, 300);
    assert_eq!(cut[0].bits(), longest[0].bits(), "its first tokens and the final [SEP]");
    assert_eq!(cut[1].bits(), longest[0].bits());
}

/// 32,768 tokens, the longest text of any M2-BERT, for a model that takes 300.
#[test]
fn a_very_long_text_is_refused_or_cut() {
    let text = vec!["word"; 32_766].join(" ") + "\n";
    embed("", text.as_bytes()).fails(1, &["line 1: more than 1200 tokens", "at most 300"]);
    let run = embed("--skip-errors", format!("{text}short\n").as_bytes()).exits(0);
    assert_eq!(rows(&run.stdout).len(), 1);
    assert_eq!(embed_lines("--auto-truncate", &text)[0].tokens, 300);
    let ids = format!("[{}]\n", vec!["101"; 32_768].join(","));
    embed("--input ids", ids.as_bytes()).fails(1, &["32768 tokens"]);
    assert_eq!(embed_lines("--input ids --auto-truncate", &ids)[0].tokens, 300);
}

/// Without newlines a file is one line: it must not be read into memory whole.
#[test]
fn a_line_without_end_is_a_bad_row() {
    let mut input = b"good\n".to_vec();
    input.resize(input.len() + (64 << 20) + 1, b'x');
    input.extend_from_slice(b"\nagood\n");
    let run = embed("--skip-errors", &input).exits(0);
    assert_eq!(rows(&run.stdout).iter().map(|row| row.index).collect::<Vec<_>>(), [0, 2]);
    assert!(run.stderr.contains("line 2: a line of more than 67108864 bytes"), "{}", run.stderr);
}

#[test]
fn another_tokenizer() {
    let cases = crate::common::workspace().join("tests/fixtures/tokenizer/cases.json");
    let mut command = danaus_with(small_model(), "embed --tokenizer");
    run_with(command.arg(&cases), b"a\n").fails(1, &["cases.json"]);
    let mut command = danaus_with(small_model(), "embed --tokenizer no-such-file.json");
    run_with(&mut command, b"a\n").fails(1, &["no-such-file.json"]);
}

/// The shape of the real model.
#[test]
fn the_synthetic_80m_model() {
    let mut command = danaus(&["embed", "--model", "synthetic:2k", "--input", "ids"]);
    let run = run_with(&mut command, b"[101, 2054, 102]\n").exits(0);
    assert!(run.stderr.contains("carry no meaning"), "{}", run.stderr);
    let rows = rows(&run.stdout);
    assert_eq!((rows.len(), rows[0].tokens, rows[0].embedding.len()), (1, 3, 768));
}
