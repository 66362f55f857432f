"""BM25 (Robertson et al., 1994), the usual baseline of search by words."""

from collections import Counter

import numpy as np

from collect import words

K1, B = 1.2, 0.75


class Bm25:
    """An index over some texts."""

    def __init__(self, texts: list[str]) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = np.array([sum(count.values()) for count in counts])
        norm = K1 * (1 - B + B * lengths / lengths.mean())
        self.size = len(texts)
        self.postings: dict[str, list[tuple[int, float]]] = {}
        for number, count in enumerate(counts):
            for word, times in count.items():
                weight = times * (K1 + 1) / (times + norm[number])
                self.postings.setdefault(word, []).append((number, weight))

    def scores(self, query: str) -> np.ndarray:
        """Each text's score."""
        found = np.zeros(self.size)
        for word in set(words(query)):
            postings = self.postings.get(word, [])
            weight = np.log(1 + (self.size - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, value in postings:
                found[number] += weight * value
        return found
