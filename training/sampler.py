"""Which texts each step trains on: a pure function of the seed and the step, so that training resumes where it stopped."""

from dataclasses import dataclass

import numpy as np

from corpus import Corpus

LONGEST = 2048


@dataclass(frozen=True)
class Plan:
    """What a step consists of."""

    pairs: int = 40
    texts: int = 120
    tokens: int = 128
    near: int = 12
    subset: int = 3072


@dataclass
class Batch:
    """Token ids of each text, the teacher's vectors, which of them exist, and which texts are pairs."""

    rows: list[np.ndarray]
    targets: np.ndarray
    taught: np.ndarray
    queries: np.ndarray
    passages: np.ndarray


class Sampler:
    """Draws batches: pairs, half of them near each other so that they are hard to tell apart; other texts; and long ones."""

    def __init__(self, corpus: Corpus, plan: Plan, seed: int) -> None:
        self.corpus, self.plan, self.seed = corpus, plan, seed
        self.pairs = corpus.pairs("train")
        self.texts = corpus.numbers("train")
        self.parts = self.texts[corpus.tokens.lengths[self.texts] >= 24]

    def batch(self, step: int, long: bool = True) -> Batch:
        """The batch of a step; `long` adds a text that is made by joining others."""
        random = np.random.default_rng((self.seed, step))
        pairs = self._pairs(random)
        others = random.choice(self.texts, min(self.plan.texts, len(self.texts)), replace=False)
        numbers = np.concatenate([pairs[:, 0], pairs[:, 1], others])
        rows = [self.corpus.tokens.text(n, self.plan.tokens) for n in numbers]
        targets, count = self.corpus.vectors[numbers].astype(np.float32), len(pairs)
        if long and len(self.parts):
            row, target = self._long(random, step)
            rows.append(row)
            targets = np.concatenate([targets, target[None]])
        order = np.arange(count)
        return Batch(rows, targets, targets.any(axis=1), order, count + order)

    def _pairs(self, random: np.random.Generator) -> np.ndarray:
        subset = self.pairs[random.choice(len(self.pairs), min(self.plan.subset, len(self.pairs)), replace=False)]
        passages = self.corpus.vectors[subset[:, 1]].astype(np.float32)
        chosen = list(range(self.plan.pairs - 2 * self.plan.near))
        for anchor in random.choice(len(subset), 2):
            nearest = np.argsort(-passages @ passages[anchor])
            chosen += [n for n in nearest if n not in chosen][: self.plan.near]
        # A text that two pairs share would be its own negative.
        kept, seen = [], set()
        for pair in subset[chosen]:
            if seen.isdisjoint(pair):
                kept.append(pair)
                seen.update(pair)
        return np.array(kept)

    def _long(self, random: np.random.Generator, step: int) -> tuple[np.ndarray, np.ndarray]:
        length = LONGEST if step % 24 == 0 else int(random.choice([192, 256, 384, 512]))
        parts, weights, left = [], [], length - 2
        while left > 0:
            part = int(random.choice(self.parts))
            parts.append(part)
            weights.append(min(left, self.corpus.tokens.lengths[part]))
            left -= weights[-1]
        target = np.array(weights, dtype=np.float32) @ self.corpus.vectors[parts].astype(np.float32)
        return self.corpus.tokens.joined(parts, length), target / max(np.linalg.norm(target), 1e-6)
