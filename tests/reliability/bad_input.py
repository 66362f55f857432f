"""Requests that nobody should send: each has an answer, whose status is one of those expected, in JSON."""

import json

from server import request

MEGABYTE = 1 << 20
POWERS = 10**400


def post(body, path="/embed"):
    """A request; a body that is no text and no bytes is written as JSON, in UTF-8."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body, ensure_ascii=False)
    return request(body if isinstance(body, bytes) else body.encode(), path)


# The long texts of which 10 MB cost a core less than a second: the others are tokenised whole, which takes it 15 seconds or more.
QUICK = {"words", "words, cut", "one ideograph", "NUL"}


def long_texts(megabytes):
    """Texts of so many megabytes: what it is, the request, the statuses that are right."""
    size = megabytes * MEGABYTE
    words, accents, ideographs = "word " * (size // 5), "\u0301" * (size // 2), "\u65e5" * (size // 3)
    texts = [
        ("words", post({"query": words}), {422}),
        ("words, cut", post({"query": words, "truncate": True}), {200}),
        ("words, the end kept", post({"inputs": words, "truncate": True, "truncation_direction": "left"}), {200}),
        ("one letter", post({"query": "a" * size}), {200}),
        ("one accent", post({"query": accents}), {200, 422}),
        ("one ideograph", post({"query": ideographs}), {422}),
        ("NUL", post({"query": "\0" * (size // 6)}), {200, 422}),
        ("one letter and no end of spaces", post({"query": "a" + " " * size}), {200}),
    ]
    return {name: (f"{megabytes} MB of {name}", data, statuses) for name, data, statuses in texts}


def short_form():
    """All of a megabyte, and of ten what is quick."""
    longest = long_texts(10)
    return [*long_texts(1).values(), *(longest[name] for name in longest if name in QUICK)]


# What it is, the request, the statuses that are right.
CASES = [
    ("over the largest body", post(b'{"query": "' + b"x" * 33 * MEGABYTE + b'"}'), {413}),
    ("NUL bytes, escaped", post('{"query": "a\\u0000b"}'), {200}),
    ("NUL bytes, bare", post(b'{"query": "a\0b"}'), {400}),
    ("a lone surrogate, escaped", post('{"query": "\\ud800"}'), {400, 422}),
    ("a lone surrogate, in bytes", post(b'{"query": "\xed\xa0\x80"}'), {400, 422}),
    ("not UTF-8", post(b'{"query": "\xff\xfe"}'), {400, 422}),
    ("a byte order mark", post(b'\xef\xbb\xbf{"query": "a"}'), {400}),
    ("UTF-16", post('{"query": "a"}'.encode("utf-16")), {400}),
    ("lists 100,000 deep", post("[" * 100_000), {400, 422}),
    ("lists 100,000 deep, closed", post('{"query": ' + "[" * 100_000 + "]" * 100_000 + "}"), {400, 422}),
    ("objects 100,000 deep", post('{"a":' * 100_000), {400, 422}),
    ("deep in a field that is ignored", post('{"query": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"), {200}),
    ("a huge number", post(f'{{"query": "a", "dimensions": {POWERS}}}'), {400, 422}),
    ("a number beyond float64", post('{"query": "a", "dimensions": 1e999}'), {400, 422}),
    ("a number of a megabyte", post('{"query": "a", "dimensions": ' + "1" * MEGABYTE + "}"), {400, 422}),
    ("a negative number", post('{"query": "a", "dimensions": -1}'), {422}),
    ("a key twice", post('{"query": "a", "query": "b"}'), {422}),
    ("an ignored key twice", post('{"query": "a", "x": 1, "x": 2}'), {200}),
    ("100,000 keys", post("{" + ",".join(f'"k{i}": 0' for i in range(100_000)) + ', "query": "a"}'), {200}),
    ("100,000 texts", post({"query": ["a"] * 100_000}), {413}),
    ("empty texts", post({"query": [""] * 2048}), {200}),
    ("nothing", post(b""), {400}),
    ("a comment", post('{"query": "a"} // why'), {400}),
    ("two documents", post('{"query": "a"}{"query": "b"}'), {400}),
    ("token ids without end", post({"input": [2**64]}, "/v1/embeddings"), {400, 422}),
    ("a path of 60 KB", b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {404, 414, 431}),
    ("300 headers", request(b"{}", more="".join(f"X-{i}: y\r\n" for i in range(300))), {431}),
    ("a negative length", b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
    ("two lengths", b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", {400}),
    ("a chunk without a size", request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n", {400}),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    ("X-Request-Timeout without end", request({"query": "a"}, more="X-Request-Timeout: 1e308\r\n"), {200, 422}),
]


async def bad_input(server, long):
    """Each case, and after each a request that must work."""
    expected = await server.embed()
    texts = list(long_texts(10).values()) if long else short_form()
    for name, data, statuses in texts + CASES:
        status, body = await server.exchange(data, patience=600)
        assert status in statuses, f"{name}: {status}, expected one of {sorted(statuses)}: {body[:300]}"
        json.loads(body)
        assert await server.embed() == expected, name
    return f"{len(texts + CASES)} cases answered"
