//! The built-in tokenizer against the reference cases, and files that override it.

use std::path::Path;
use std::sync::LazyLock;

use danaus_model::{Tokenizer, TokenizerError, truncate};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::fixture;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::bert_base_uncased);

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn reference_cases() {
    let json = std::fs::read_to_string(fixture("tokenizer/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&json).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        assert_eq!(TOKENIZER.encode(&case.text).unwrap().ids, case.ids, "{:?}", case.text);
    }
}

#[test]
fn tokens_and_offsets_in_characters() {
    let encoding = TOKENIZER.encode("héllo 日本, embeddings").unwrap();
    assert_eq!(encoding.tokens, ["[CLS]", "hello", "日", "本", ",", "em", "##bed", "##ding", "##s", "[SEP]"]);
    assert_eq!(
        encoding.offsets,
        [(0, 0), (0, 5), (6, 7), (7, 8), (8, 9), (10, 12), (12, 15), (15, 19), (19, 20), (0, 0)]
    );
    assert_eq!(encoding.ids.len(), encoding.tokens.len());
    assert_eq!(TOKENIZER.max_id(), 30521);
}

#[test]
fn strange_texts_are_encoded() {
    let ids = |text: &str| TOKENIZER.encode(text).unwrap().ids;
    assert_eq!(ids("\0\u{1}\u{7f}\u{fffd}\u{200b}\u{feff}"), [101, 102], "control characters vanish");
    assert_eq!(ids("a\0b"), ids("ab"));
    assert_eq!(ids("\u{301}\u{301}"), [101, 102], "combining marks alone vanish");
    assert_eq!(ids("🦋"), [101, 100, 102], "an emoji is unknown");
    assert_eq!(ids("👩‍👩‍👧‍👦🏳️‍🌈")[0], 101);
    assert_eq!(ids("\u{10ffff}\u{e000}").last(), Some(&102));
    assert_eq!(ids(&"a".repeat(101)), [101, 100, 102], "a word of more than 100 characters is unknown");
    assert_eq!(ids(&"\u{301}".repeat(10_000)), [101, 102]);
}

#[test]
fn long_texts_are_encoded_whole() {
    assert_eq!(TOKENIZER.encode(&"a".repeat(1 << 20)).unwrap().ids, [101, 100, 102]);
    assert_eq!(TOKENIZER.encode(&"!".repeat(100_000)).unwrap().ids.len(), 100_002);
    assert_eq!(TOKENIZER.encode(&"word ".repeat(100_000)).unwrap().ids.len(), 100_002);
    assert_eq!(TOKENIZER.encode(&" ".repeat(1 << 20)).unwrap().ids, [101, 102]);
}

#[test]
fn ids_stop_early_where_there_are_too_many() {
    let full = TOKENIZER.encode("one two three four").unwrap().ids;
    assert_eq!(full.len(), 6);
    let ids = |at_most| TOKENIZER.encode_ids("one two three four", at_most).unwrap();
    assert_eq!((ids(usize::MAX), ids(7), ids(6)), (full.clone(), full.clone(), full.clone()));
    for at_most in 1..6 {
        let got = ids(at_most);
        assert_eq!(got.len(), at_most + 1, "one more than asked for says that there are more");
        let (mut cut, mut expected) = (got, full.clone());
        assert!(truncate(&mut cut, at_most));
        truncate(&mut expected, at_most);
        assert_eq!(cut, expected, "{at_most}");
    }
    let endless = TOKENIZER.encode_ids(&"! ".repeat(5 << 20), 100).unwrap();
    assert_eq!((endless.len(), endless[100]), (101, 102));
    assert_eq!(TOKENIZER.encode_ids(&"a".repeat(5 << 20), 100).unwrap(), [101, 100, 102]);
}

proptest! {
    #[test]
    fn any_text_is_encoded(text in any::<String>()) {
        let encoding = TOKENIZER.encode(&text).unwrap();
        prop_assert_eq!((encoding.ids.first(), encoding.ids.last()), (Some(&101), Some(&102)));
        prop_assert_eq!(encoding.ids.len(), encoding.tokens.len());
        prop_assert_eq!(encoding.ids.len(), encoding.offsets.len());
        let characters = text.chars().count();
        prop_assert!(encoding.offsets.iter().all(|(start, end)| start <= end && *end <= characters));
        prop_assert!(encoding.ids.iter().all(|id| *id <= 30521));
    }

    #[test]
    fn truncation_keeps_the_start_and_the_end(count in 2usize..40, max_tokens in 0usize..50) {
        let full: Vec<u32> = (0..count as u32).collect();
        let mut ids = full.clone();
        prop_assert_eq!(truncate(&mut ids, max_tokens), count > max_tokens);
        prop_assert_eq!(ids.len(), count.min(max_tokens));
        if let Some((last, start)) = ids.split_last() {
            prop_assert_eq!(*last, full[count - 1]);
            prop_assert_eq!(start, &full[..start.len()]);
        }
    }
}

fn asset() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(tokenizer: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer).unwrap();
    Tokenizer::from_file(&path)
}

#[test]
fn a_file_overrides_and_its_truncation_and_padding_do_not_count() {
    let mut json = asset();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    json["normalizer"]["lowercase"] = json!(false);
    json["normalizer"]["strip_accents"] = json!(false);
    let tokenizer = load(json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("one two three four five").unwrap().ids.len(), 7);
    assert_eq!(tokenizer.encode("One").unwrap().ids, [101, 100, 102], "the file's own normalizer is used");
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let error = |content: &[u8]| load(content).err().unwrap().to_string();
    for content in [&b""[..], b"{", b"{}", b"[]", b"\xff\xfe", br#"{"version": "1.0"}"#, b"[PAD]\n[UNK]\n"] {
        let error = error(content);
        assert!(error.contains("tokenizer.json is not a tokenizer: "), "{error}");
        assert!(error.contains("Expected the file tokenizer.json of a BERT model"), "{error}");
    }
    let mut bare = asset();
    bare["post_processor"] = Value::Null;
    let bare = error(bare.to_string().as_bytes());
    assert!(bare.contains("adds 0 special tokens to a text: expected 2"), "{bare}");
    let gone = Tokenizer::from_file(Path::new("/gone/tokenizer.json")).err().unwrap().to_string();
    assert_eq!(
        gone,
        "cannot read the tokenizer file /gone/tokenizer.json: No such file or directory (os error 2)"
    );
}
