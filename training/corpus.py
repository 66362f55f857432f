"""What the first two steps left: texts, tokens, vectors and pairs, by split."""

import numpy as np

import paths
from data import Tokens, read_lines
from teach import vectors


class Corpus:
    """The collected texts, and the teacher's vectors of those that have been taught (zero for the others)."""

    def __init__(self) -> None:
        self.texts = read_lines(paths.TEXTS)
        self.tokens = Tokens.cached([text["text"] for text in self.texts], paths.TOKENS)
        self.vectors = np.array(vectors(len(self.texts)))
        self.taught = self.vectors.any(axis=1)
        self.split = np.array([text["split"] for text in self.texts])
        self._pairs = read_lines(paths.PAIRS)

    def numbers(self, split: str) -> np.ndarray:
        """The taught texts of a split."""
        return np.flatnonzero((self.split == split) & self.taught)

    def pairs(self, split: str, task: str | None = None) -> np.ndarray:
        """Query and passage of each pair, [pairs, 2]; those of the test only where both are taught."""
        chosen = [
            (pair["query"], pair["passage"])
            for pair in self._pairs
            if pair["split"] == split and task in (None, pair["task"])
        ]
        found = np.array(chosen, dtype=np.int64).reshape(-1, 2)
        return found if split != "test" else found[self.taught[found].all(axis=1)]
