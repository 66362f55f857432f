//! What a head says of itself: where it ends, how far its request reaches, and whether it can be taken at all.

use axum::http::{Method, Uri};
use httparse::{EMPTY_HEADER, Error, Header, Request, Status};

use super::body::Extent;
use crate::error::{ApiError, ErrorKind};

/// Most bytes of a request's head; 431 beyond.
pub(in crate::serve) const HEAD_BYTES: usize = 64 * 1024;

/// Most fields of a request's head; 431 beyond. hyper's own limit.
const HEAD_FIELDS: usize = 100;

/// What has come of a head.
pub(super) enum Look {
    /// Not enough.
    Partial,
    /// All of it: what its request takes.
    Whole(Extent),
    /// What cannot be taken.
    Wrong(ApiError),
}

/// Looks at the beginning of a request, of which the first `seen` bytes were looked at before and were too few.
pub(super) fn look(bytes: &[u8], seen: usize) -> Look {
    let ends = has_end(&bytes[seen.saturating_sub(2)..]);
    // Looked at when it has begun, since what is no HTTP may never end, and when it may be whole; not at each byte.
    if ends || (seen == 0 && !bytes.is_empty()) {
        let mut fields = [EMPTY_HEADER; HEAD_FIELDS];
        let mut request = Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(Status::Complete(length)) if length > HEAD_BYTES => return Look::Wrong(too_large()),
            Ok(Status::Complete(length)) => {
                return extent(&request, length).map_or_else(|why| Look::Wrong(malformed(why)), Look::Whole);
            }
            Ok(Status::Partial) => {}
            Err(Error::TooManyHeaders) if ends => return Look::Wrong(too_many_fields(bytes)),
            // How many there are is known when all have come.
            Err(Error::TooManyHeaders) => {}
            Err(error) => return Look::Wrong(malformed(error)),
        }
    }
    if bytes.len() < HEAD_BYTES { Look::Partial } else { Look::Wrong(too_large()) }
}

/// Whether there is an empty line.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|end| end.starts_with(b"\n\n") || end == b"\n\r\n") || bytes.ends_with(b"\n\n")
}

/// How far the request reaches; what hyper would refuse in it is an error.
fn extent(request: &Request<'_, '_>, head: usize) -> Result<Extent, &'static str> {
    if Method::from_bytes(request.method.unwrap_or_default().as_bytes()).is_err() {
        return Err("invalid method");
    }
    if request.path.unwrap_or_default().parse::<Uri>().is_err() {
        return Err("invalid target");
    }
    let values = |name| {
        let named = move |field: &&Header<'_>| field.name.eq_ignore_ascii_case(name);
        request.headers.iter().filter(named).map(|field| field.value)
    };
    let mut length = None;
    for value in values("content-length") {
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        // hyper keeps the two largest numbers for itself.
        let value: Option<u64> = digits.and_then(|digits| digits.parse().ok()).filter(|&n| n < u64::MAX - 1);
        let value = value.ok_or("invalid Content-Length")?;
        if *length.get_or_insert(value) != value {
            return Err("two different values of Content-Length");
        }
    }
    let mut codings = values("transfer-encoding");
    if let Some(coding) = codings.next() {
        let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        return match request.version {
            Some(1) if chunked => Ok(Extent::chunked(head)),
            Some(1) => Err("a Transfer-Encoding that is not chunked alone"),
            _ => Err("a Transfer-Encoding in HTTP/1.0"),
        };
    }
    Ok(Extent::sized(head, length.unwrap_or(0)))
}

/// Longest path that is taken over.
const STAND_IN_PATH: usize = 1024;

/// A head for a request that is refused: the same method and path, if they can be told, so that the error has the form of
/// the API that was called.
pub(super) fn stand_in(bytes: &[u8]) -> Vec<u8> {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default().trim_end();
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next().unwrap_or_default());
    // hyper would take a CONNECT for the end of HTTP.
    let method =
        method.filter(|&method| method != "CONNECT" && Method::from_bytes(method.as_bytes()).is_ok());
    let target =
        target.filter(|target| target.starts_with('/')).and_then(|target| target.parse::<Uri>().ok());
    let path = target.as_ref().map(Uri::path).filter(|path| path.len() <= STAND_IN_PATH);
    match (method, path) {
        (Some(method), Some(path)) if version.starts_with("HTTP/1.") => {
            format!("{method} {path} HTTP/1.1\r\n\r\n").into_bytes()
        }
        _ => b"UNKNOWN * HTTP/1.1\r\n\r\n".to_vec(),
    }
}

fn malformed(why: impl std::fmt::Display) -> ApiError {
    let message = format!("The request's head is not HTTP/1.1: {why}");
    ApiError::new(ErrorKind::MalformedHead, message)
}

fn too_large() -> ApiError {
    let message = format!(
        "The request's head has more than {HEAD_BYTES} bytes, which is the limit: send shorter header fields"
    );
    ApiError::new(ErrorKind::HeadTooLarge, message)
}

fn too_many_fields(bytes: &[u8]) -> ApiError {
    let lines = bytes.split(|&byte| byte == b'\n').skip(1);
    let fields = lines.take_while(|line| !line.trim_ascii_end().is_empty()).count();
    let message =
        format!("The request's head has {fields} fields, over the limit of {HEAD_FIELDS}: send fewer");
    ApiError::new(ErrorKind::HeadTooLarge, message)
}
