//! Texts through the tokenizer, which encodes long ones piece by piece: the result must be the library's for the whole. A
//! first byte of 0xff repeats the rest, so that a short input reaches the edge of a piece; most inputs are quick.

#![no_main]

use std::sync::LazyLock;

use danaus_model::{Tokenizer, truncate, truncate_start};
use libfuzzer_sys::fuzz_target;

/// Bytes up to which a text is repeated: just beyond the first piece of 8 KiB, since instrumented code is slow.
const LONGEST: usize = 8192 + 512;

static OURS: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::bert_base_uncased);

static LIBRARYS: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let file = include_bytes!("../../crates/model/assets/tokenizer.json");
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(file).expect("the built-in tokenizer");
    tokenizer.with_truncation(None).expect("no truncation");
    tokenizer.with_padding(None);
    tokenizer
});

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    let piece = String::from_utf8_lossy(rest);
    let times = if first == 0xff { (LONGEST / piece.len().max(1)).max(1) } else { 1 };
    let text = piece.repeat(times);
    let expected = LIBRARYS.encode_char_offsets(text.as_str(), true).expect("a text");
    let got = OURS.encode(&text).expect("the built-in tokenizer refuses no text");
    assert_eq!(got.ids, expected.get_ids());
    assert_eq!(got.tokens, expected.get_tokens());
    assert_eq!(got.offsets, expected.get_offsets());

    for at_most in [2, 64, got.ids.len() - 1, got.ids.len()] {
        let ids = OURS.encode_ids(&text, at_most).expect("a text");
        if got.ids.len() <= at_most {
            assert_eq!(ids, got.ids, "at most {at_most}");
        } else {
            let (last, first) = ids.split_last().expect("two special tokens");
            assert_eq!((first, Some(last)), (&got.ids[..at_most], got.ids.last()), "at most {at_most}");
        }
    }
    for most in [2, 64] {
        let (mut end, mut start) = (got.ids.clone(), got.ids.clone());
        assert_eq!(truncate(&mut end, most), got.ids.len() > most);
        assert_eq!(truncate_start(&mut start, most), got.ids.len() > most);
        for kept in [end, start] {
            assert_eq!(kept.len(), got.ids.len().min(most));
            assert_eq!((kept.first(), kept.last()), (got.ids.first(), got.ids.last()));
        }
    }
});
