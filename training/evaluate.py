"""Step 5: what the exported student finds among held-out texts, beside the teacher and two baselines.

    python evaluate.py [--threads 2] [--most 1500]

Prints a table in Markdown and writes it, with all numbers, to models/builtin/evaluation.json. Training saw none of these texts, nor any
other text of their documents.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F

import paths
import teach
from bm25 import Bm25
from collect import words
from corpus import Corpus
from data import batch, groups
from export import load_exported
from teacher import MAX_TOKENS, Teacher

TASKS = {
    "package": "a package's description by its synopsis",
    "paraphrase": "the same, where they share at most a third of the synopsis' words",
    "manual": "a manual page's text by its NAME line",
    "section": "a documentation section by its heading",
}
MOST_SHARED = 1 / 3
COMMON = set("a an and are as at be by for from in into is it of on or that the to using with".split())
LONG = 512


def shared(query: str, passage: str) -> float:
    """The share of the query's words, but for the commonest, that the passage has."""
    own = set(words(query)) - COMMON
    return len(own & set(words(passage))) / max(len(own), 1)


class Systems:
    """What is compared: each gives unit vectors for texts by their numbers."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.student, self.teacher = corpus, load_exported(), Teacher()
        self.words = self.teacher.embeddings()["word_embeddings.weight"]
        self.known: dict[str, dict[int, np.ndarray]] = {"student": {}, "static": {}}

    def of(self, name: str, rows: list[np.ndarray]) -> np.ndarray:
        """Vectors of token ids by `student`, `teacher` or `static`."""
        out = np.zeros((len(rows), teach.DIMENSION), dtype=np.float32)
        for group in groups(np.array([len(row) for row in rows]), 4096):
            ids, mask = batch([rows[i] for i in group])
            with torch.inference_mode():
                out[group] = self._vectors(name, ids, mask).numpy()
        return out

    def _vectors(self, name: str, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if name == "student":
            return self.student(ids, mask)
        if name == "teacher":
            return self.teacher.embed(ids, mask)
        kept = (mask & (ids != 101) & (ids != 102)).unsqueeze(-1)
        return F.normalize((self.words[ids] * kept).sum(1) / kept.sum(1).clamp_min(1), dim=1)

    def texts(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Vectors of collected texts; the teacher's are those of step 2."""
        if name == "teacher":
            return F.normalize(torch.from_numpy(self.corpus.vectors[numbers].astype(np.float32)), dim=1).numpy()
        known = self.known[name]
        missing = [n for n in map(int, numbers) if n not in known]
        known.update(zip(missing, self.of(name, [self.corpus.tokens.text(n, MAX_TOKENS) for n in missing]), strict=True))
        return np.array([known[int(n)] for n in numbers])


def ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many candidates are before the right one; equal ones count half."""
    own = np.take_along_axis(scores, right[:, None], axis=1)
    return (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2


def measures(found: np.ndarray) -> dict[str, float]:
    """Recall and mean reciprocal rank."""
    return {
        "recall@1": float((found < 1).mean()),
        "recall@10": float((found < 10).mean()),
        "MRR": float((1 / (1 + found)).mean()),
    }


def retrieval(systems: Systems, pairs: np.ndarray, asked: np.ndarray) -> dict[str, dict[str, float]]:
    """All pairs' passages are the candidates; the queries are those of `asked`."""
    passages = np.unique(pairs[:, 1])
    right = np.searchsorted(passages, pairs[asked, 1])
    queries = pairs[asked, 0]
    result = {}
    for name in ("student", "teacher", "static"):
        scores = systems.texts(name, queries) @ systems.texts(name, passages).T
        result[name] = measures(ranks(scores, right))
    texts = systems.corpus.texts
    index = Bm25([texts[n]["text"] for n in passages])
    scores = np.array([index.scores(texts[n]["text"]) for n in queries])
    result["bm25"] = measures(ranks(scores, right))
    return {"candidates": len(passages), "queries": len(queries), **result}


def correlation(systems: Systems, most: int) -> dict[str, dict[str, float]]:
    """Correlation of the cosines between texts with the teacher's cosines, of short texts and of joined ones."""
    corpus, random = systems.corpus, np.random.default_rng(1)
    numbers = corpus.numbers("test")
    numbers = random.choice(numbers, min(most, len(numbers)), replace=False)
    parts = numbers[corpus.tokens.lengths[numbers] >= 24]
    joined = [random.choice(parts, 24, replace=False) for _ in range(most // 25)]
    weights = [corpus.tokens.lengths[group] for group in joined]
    means = np.array([w @ corpus.vectors[g].astype(np.float32) for g, w in zip(joined, weights, strict=True)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    rows = [corpus.tokens.joined(list(group), 2048) for group in joined]
    result = {}
    for name in ("student", "static"):
        short, long = systems.texts(name, numbers), systems.of(name, rows)
        theirs = systems.texts("teacher", numbers)
        result[name] = {
            "cosine": float((short * theirs).sum(1).mean()),
            "short": pairwise(short, theirs),
            "long": pairwise(long, means),
            "long cosine": float((long * means).sum(1).mean()),
        }
    result["tokens of a joined text"] = float(np.mean([len(row) for row in rows]))
    return result


def pairwise(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Pearson's correlation of all pairs' cosines."""
    upper = np.triu_indices(len(ours), 1)
    return float(np.corrcoef((ours @ ours.T)[upper], (theirs @ theirs.T)[upper])[0, 1])


def table(results: dict) -> str:
    """The results of the tasks, in Markdown."""
    lines = ["| task | | built-in model | teacher | static mean | BM25 |", "|---|---|---|---|---|---|"]
    for task, label in TASKS.items():
        found = results[task]
        for measure in ("recall@1", "recall@10", "MRR"):
            cells = [f"{found[name][measure]:.3f}" for name in ("student", "teacher", "static", "bm25")]
            size = f"{label} ({found['queries']} of {found['candidates']})" if measure == "recall@1" else ""
            lines.append(f"| {size} | {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, default=1500, help="pairs of each task, which are its candidates too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus = Corpus()
    systems, results = Systems(corpus), {}
    for task in TASKS:
        pairs = corpus.pairs("test", "package" if task == "paraphrase" else task)[: arguments.most]
        texts = corpus.texts
        asked = np.arange(len(pairs))
        if task == "paraphrase":
            few = [shared(texts[q]["text"], texts[p]["text"]) <= MOST_SHARED for q, p in pairs]
            asked = np.flatnonzero(few)
        results[task] = retrieval(systems, pairs, asked)
    results["similarity"] = correlation(systems, arguments.most)
    (paths.BUILTIN / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(json.dumps(results["similarity"], indent=2))


if __name__ == "__main__":
    main()
