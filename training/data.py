"""Texts as token ids, and the files that the steps hand to each other."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import paths


def tokenizer() -> Tokenizer:
    """The tokenizer that danaus has built in."""
    built_in = Tokenizer.from_file(str(paths.TOKENIZER))
    built_in.no_truncation()
    built_in.no_padding()
    return built_in


def read_lines(path: Path) -> list[dict]:
    """A file with a JSON object a line."""
    with path.open() as file:
        return [json.loads(line) for line in file]


class Tokens:
    """Token ids of many texts, end to end, without [CLS] and [SEP]."""

    CLS, SEP = 101, 102

    def __init__(self, ids: np.ndarray, starts: np.ndarray) -> None:
        self.ids, self.starts = ids, starts
        self.lengths = np.diff(starts)

    @classmethod
    def of(cls, texts: list[str]) -> "Tokens":
        """Tokenises texts."""
        encoded = [np.array(e.ids, dtype=np.uint16) for e in tokenizer().encode_batch(texts, add_special_tokens=False)]
        return cls(np.concatenate(encoded), np.cumsum([0, *map(len, encoded)]))

    @classmethod
    def cached(cls, texts: list[str], path: Path) -> "Tokens":
        """As `of`, kept in a file."""
        if not path.exists():
            tokens = cls.of(texts)
            np.savez(path, ids=tokens.ids, starts=tokens.starts)
        stored = np.load(path)
        tokens = cls(stored["ids"], stored["starts"])
        if len(tokens.lengths) != len(texts):
            raise SystemExit(f"{path} is of other texts: remove it")
        return tokens

    def text(self, number: int, most: int) -> np.ndarray:
        """`[CLS] tokens [SEP]` of a text, at most `most` of them."""
        return self.joined([number], most)

    def joined(self, numbers: list[int], most: int) -> np.ndarray:
        """`[CLS] tokens [SEP]` of several texts in a row."""
        parts = [self.ids[self.starts[n] : self.starts[n + 1]] for n in numbers]
        inner = np.concatenate(parts)[: most - 2]
        return np.concatenate([[self.CLS], inner, [self.SEP]]).astype(np.int64)


def batch(rows: list[np.ndarray], multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as [B, T] with their mask, T a multiple of `multiple` and B of 8 then, by rows without tokens.

    Few shapes are fast: the library compiles code for each that it meets.
    """
    length, count = max(map(len, rows)), len(rows)
    if multiple > 1:
        length, count = length + -length % multiple, count + -count % 8
    ids = np.zeros((count, length), dtype=np.int64)
    mask = np.zeros((count, length), dtype=bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def groups(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Indices of texts of similar lengths, each group of at most about `tokens` tokens."""
    order, found, start = np.argsort(lengths, kind="stable"), [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > tokens:
            found.append(order[start:end])
            start = end
    return found
