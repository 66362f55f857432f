use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

const SILENCE: Duration = Duration::from_secs(3600);

/// Gives its bytes in pieces of those lengths, in turn.
struct Pieces {
    bytes: Cursor<Vec<u8>>,
    lengths: Vec<usize>,
    next: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.lengths[self.next % self.lengths.len()].min(out.remaining());
        self.next += 1;
        let mut piece = vec![0; length];
        let count = io::Read::read(&mut self.bytes, &mut piece)?;
        out.put_slice(&piece[..count]);
        Poll::Ready(Ok(()))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// What hyper gets of it, how many heads that was, and why the last one is refused, if it is.
fn pass(bytes: Vec<u8>, lengths: Vec<usize>) -> (Vec<u8>, usize, Option<ApiError>) {
    let line = Arc::new(Line::default());
    let pieces = Pieces { bytes: Cursor::new(bytes), lengths, next: 0 };
    let mut heads = Heads::new(pieces, Arc::clone(&line), SILENCE);
    let mut got = Vec::new();
    block_on(async {
        let mut buffer = [0; 333];
        // A refused head is the last, behind which nothing comes; its stand-in is short.
        while !(matches!(heads.stage, Stage::Refused) && heads.held.is_empty()) {
            match heads.read(&mut buffer).await.unwrap() {
                0 => break,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
    });
    (got, line.heads.load(Ordering::Relaxed), line.refusal.get().cloned())
}

fn a_request() -> impl Strategy<Value = Vec<u8>> {
    let chunk = ("[0-9a-f]{0,2}", vec(any::<u8>(), 1..40), "(;a=b)?").prop_map(|(_, data, extension)| {
        let mut chunk = format!("{:x}{extension}\r\n", data.len()).into_bytes();
        chunk.extend(data);
        chunk.extend(b"\r\n");
        chunk
    });
    let sized = vec(any::<u8>(), 0..80).prop_map(|body| {
        let head = format!("POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    });
    let chunked = (vec(chunk, 0..4), "(x: y\r\n){0,2}").prop_map(|(chunks, trailers)| {
        let head = b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\ncontent-length: 7\r\n\r\n".to_vec();
        let end = format!("0\r\n{trailers}\r\n").into_bytes();
        [head, chunks.concat(), end].concat()
    });
    prop_oneof![
        Just(b"GET /health HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"GET / HTTP/1.0\n\n".to_vec()),
        sized,
        chunked
    ]
}

proptest! {
    /// Whatever the pieces, hyper gets what was sent, and each head is known for one.
    #[test]
    fn requests_pass_as_they_are(requests in vec(a_request(), 1..6), lengths in vec(1usize..100, 1..8)) {
        let bytes = requests.concat();
        let (got, heads, refusal) = pass(bytes.clone(), lengths);
        prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&bytes));
        prop_assert_eq!((heads, refusal), (requests.len(), None));
    }

    /// A head that cannot be taken is found behind any others, and nothing comes after it.
    #[test]
    fn a_wrong_head_is_found_wherever_it_is(requests in vec(a_request(), 0..6), lengths in vec(1usize..100, 1..8)) {
        let wrong = b"GET /info HTTP/1.1\r\nno field\r\n\r\nmore";
        let (got, heads, refusal) = pass([&requests.concat()[..], wrong].concat(), lengths);
        let expected = [&requests.concat()[..], b"GET /info HTTP/1.1\r\n\r\n"].concat();
        prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
        prop_assert_eq!((heads, refusal.is_some()), (requests.len() + 1, true));
    }

    /// Anything at all: no panic, and no head without an end.
    #[test]
    fn any_bytes(bytes in vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'0'), Just(b' '), any::<u8>()], 0..300)) {
        pass(bytes, vec![7]);
    }
}

#[test]
fn empty_lines_before_a_head_are_left_out() {
    let (got, heads, _) =
        pass(b"\r\n\n\r\nGET / HTTP/1.1\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n".to_vec(), vec![1]);
    assert_eq!(got, b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(heads, 2);
}

/// As hyper, which takes lines after the last chunk for ended by CR LF alone.
#[test]
fn a_body_ends_where_hyper_ends_it() {
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    for (body, heads) in [
        ("0\r\n\n\r\n\r\n", 1),
        ("0\r\n\nGET /info HTTP/1.1\r\nno field\r\n\r\n", 1),
        ("0\r\na: b\n\r\nGET /info HTTP/1.1\r\nno field\r\n\r\n", 1),
        ("0\r\na: b\r\n\r\nGET /info HTTP/1.1\r\n\r\n", 2),
    ] {
        let (got, known, refusal) = pass(format!("{head}{body}").into_bytes(), vec![5]);
        assert_eq!((known, refusal), (heads, None), "{body:?}");
        assert_eq!(String::from_utf8_lossy(&got), format!("{head}{body}"));
    }
}

#[test]
fn what_hyper_would_refuse_is_refused_here() {
    for fields in [
        "content-length: 18446744073709551615",
        "content-length: 18446744073709551614",
        "content-length: +5",
        "content-length: x\r\ntransfer-encoding: chunked",
        "content-length: 1\r\ncontent-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: \u{ff}, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
    ] {
        let (got, heads, refusal) =
            pass(format!("POST /embed HTTP/1.1\r\n{fields}\r\n\r\n").into_bytes(), vec![100]);
        assert_eq!(got, b"POST /embed HTTP/1.1\r\n\r\n", "{fields}");
        assert_eq!((heads, refusal.is_some()), (1, true), "{fields}");
    }
}

#[test]
fn what_stands_in_is_what_hyper_takes() {
    let long = format!("GET /{} HTTP/1.1", "a".repeat(2000));
    for (line, stands_in) in [
        ("GET /#\u{1} HTTP/1.1", "GET / HTTP/1.1"),
        ("GET /info?a=b HTTP/1.1", "GET /info HTTP/1.1"),
        ("CONNECT /x HTTP/1.1", "UNKNOWN * HTTP/1.1"),
        (&long, "UNKNOWN * HTTP/1.1"),
    ] {
        let (got, _, refusal) = pass(format!("{line}\r\nno field\r\n\r\n").into_bytes(), vec![100]);
        assert_eq!(String::from_utf8_lossy(&got), format!("{stands_in}\r\n\r\n"), "{line}");
        assert!(refusal.is_some());
    }
}
