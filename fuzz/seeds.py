"""Writes what fuzzing starts from: a few small inputs for each target, so that it need not find JSON or a checkpoint by chance.

    python3 fuzz/seeds.py fuzz/corpus

Checkpoints come from the model crate's test data. The scheduler's target needs no seeds: any bytes are a sequence of steps.
"""
import json
import math
import struct
import sys
import zipfile
from pathlib import Path

DATA = Path(__file__).parent.parent / "crates/model/tests/data"

# First character: the route, as in fuzz_targets/requests.rs.
REQUESTS = [
    '0{"query": "What is machine learning?"}',
    '0{"query": ["a", "b c", ""], "truncate": true, "dimensions": 8, "normalize": false, "pooling": "cls"}',
    '0{"query": "x", "padding": "max-length", "pooling": "model"}',
    '0{"query": "x", "padding": "fast"}',
    '0{"query": []}',
    '0{"query": "' + "long " * 80 + '", "truncate": true}',
    '0{"query": "' + "long " * 80 + '"}',
    '0{"query": "a", "query": "b", "dimensions": 8.0}',
    '0{"query": "\\ud83e\\udd8b \\u0000 \\ud800"}',
    '0{"inputs": ["a", "b"], "truncate": true, "truncation_direction": "left", "normalize": true}',
    '1["a", "b"]',
    "1[]",
    '2{"input": "text", "model": "m2-bert"}',
    '2{"input": ["a", "b"], "encoding_format": "base64", "dimensions": 16, "user": "u"}',
    '2{"input": [101, 7592, 102]}',
    '2{"input": [[101, 7592, 102], [101, 102]], "encoding_format": "float"}',
    '2{"input": [[]], "dimensions": 1e400}',
    '3{"inputs": "text", "truncate": true, "prompt_name": null}',
    '3{"inputs": [["a", "b"]]}',
    '4{"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}}',
    '5{"inputs": "Stra\u00dfe, \u6771\u4eac, na\u00efve \U0001f98b"}',
    '5{"inputs": ["a", "b"]}',
    '6{"query": ["a", "b"], "truncate": true}',
    "0" + "[" * 200,
    '0{"query": -0.1e-999}',
    "0null",
]

# First character: \xff where the rest is repeated.
TEXTS = [
    "\x01What is machine learning?",
    "\x01[CLS] [SEP] [PAD] [MASK] [UNK] [CLS][CL S]",
    "\x01Stra\u00dfe, \u6771\u4eac, na\u00efve \U0001f98b \u00c5 A\u030a \ufb01 \u0130",
    "\x01un\u0000be\ufffdliev\u200bable \t\r\n\u00a0\u2028",
    "\xff" + "monarch " * 20,
    "\xff" + "a" * 150,
    "\xff" + "a\u0301" * 60,
    "\xff[SEP]",
    "\xff\u65e5\u672c\u8a9e",
    "\xffx\u0000",
    "\xffx y-z, [CLS]!",
    "\xff\u1100\u1161\u11a8",
]


def tiny_checkpoint(integers=False):
    """The test data's names with the smallest shapes, one layer: 6 KB, most of it header. Its matrices may be 8-bit integers."""
    data = (DATA / "small.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    sizes = {40: 4, 10: 4, 24: 6, 8: 2, 6: 2, 5: 3}
    blocks = {"mlp.gated_layers.weight": [1, 4, 2], "mlp.wo.weight": [1, 2, 2]}
    tensors, at = {}, 0
    for name, info in header.items():
        if name == "__metadata__" or ".layer.1." in name:
            continue
        shape = blocks.get(name.split(".0.", 1)[-1], [sizes.get(size, size) for size in info["shape"]])
        stored = [(name, "F32", 4, shape)]
        if integers and len(shape) == 2:
            stored = [(name, "I8", 1, shape), (name + ".scale", "F32", 4, shape[:1])]
        for name, dtype, size, shape in stored:
            end = at + size * math.prod(shape)
            tensors[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end
    text = json.dumps(tensors, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + (struct.pack("<f", 0.25) * (at // 4 + 1))[:at]


def checkpoints():
    config = json.dumps(json.loads((DATA / "small.json").read_text())).encode()
    yield b"{}\n" + tiny_checkpoint()
    yield b"{}\n" + tiny_checkpoint(integers=True)
    yield b"{}\n" + (DATA / "small.safetensors").read_bytes()
    yield config + b"\n" + (DATA / "small.safetensors").read_bytes()
    for name in ["double", "legacy", "list", "namespace", "one-storage", "strided", "whole-module"]:
        yield b"{}\n" + (DATA / f"{name}.pt").read_bytes()
    fixture = (DATA.parents[3] / "tests/fixtures/tiny-64/config.json").read_text()
    yield json.dumps(json.loads(fixture)).encode()
    yield b'{"danaus_padding": "none", "hidden_act": "relu", "layer_norm_eps": -1e-400, "pad_token_id": null}'


def pickles():
    for path in sorted(DATA.glob("*.pt")):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def main():
    seeds = {
        "requests": [text.encode() for text in REQUESTS],
        "tokenizer": [text[:1].encode("latin-1") + text[1:].encode() for text in TEXTS],
        "checkpoint": checkpoints(),
        "pickle": pickles(),
        "scheduler": [],
    }
    for target, inputs in seeds.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for index, content in enumerate(inputs):
            (folder / f"seed-{index:02}").write_bytes(content)


if __name__ == "__main__":
    main()
