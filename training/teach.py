"""Step 2: the teacher's vectors of the collected texts.

    python teach.py [--minutes 25] [--most-tokens 256]

What the tasks hold out comes first, then as many of the others as the time allows, pairs whole; run it again to go on
where it stopped; where there is little time, short texts alone. Vectors go to `vectors.f16`, zero where a text has none
yet.
"""

import argparse
import time

import numpy as np
import torch

import paths
from data import Tokens, batch, groups, read_lines
from teacher import DIMENSION, MAX_TOKENS, Teacher

BLOCK = 4096
BATCH_TOKENS = 4096
TASKS = ("package", "manual", "section")
# Held-out pairs of each task, and texts beside them (for comparing similarities).
HELD_OUT = {"test": (1500, 1500), "validation": (300, 700)}


def vectors(count: int, mode: str = "r") -> np.ndarray:
    """The file of vectors, memory-mapped: [texts, 384] in float16."""
    if mode == "r+" and not paths.VECTORS.exists():
        np.memmap(paths.VECTORS, np.float16, "w+", shape=(count, DIMENSION)).flush()
    return np.memmap(paths.VECTORS, np.float16, mode, shape=(count, DIMENSION))


def embed(teacher: Teacher, tokens: Tokens, numbers: np.ndarray) -> np.ndarray:
    """The teacher's vectors of some texts, in their order."""
    out = np.zeros((len(numbers), DIMENSION), dtype=np.float32)
    lengths = np.minimum(tokens.lengths[numbers] + 2, MAX_TOKENS)
    for group in groups(lengths, BATCH_TOKENS):
        ids, mask = batch([tokens.text(numbers[i], MAX_TOKENS) for i in group])
        out[group] = teacher.embed(ids, mask).numpy()
    return out


def order(texts: list[dict], pairs: list[dict]) -> np.ndarray:
    """Which texts are taught, the most needed first: what is held out, then pairs and other texts in even shares."""
    held_out, paired = {}, {}
    for split, (count, others) in HELD_OUT.items():
        for task in TASKS:
            for pair in [pair for pair in pairs if (pair["split"], pair["task"]) == (split, task)][:count]:
                held_out.update({pair["query"]: None, pair["passage"]: None})
        rest = [n for n, text in enumerate(texts) if text["split"] == split and n not in held_out]
        held_out.update(dict.fromkeys(rest[:others]))
    for pair in pairs:
        if pair["task"] in TASKS and pair["split"] == "train":
            paired.update({pair["query"]: None, pair["passage"]: None})
    first = np.array(list(paired))
    rest = np.array([n for n, text in enumerate(texts) if text["split"] == "train" and n not in paired])
    places = np.concatenate([np.arange(len(part)) / len(part) for part in (first, rest)])
    return np.concatenate([list(held_out), np.concatenate([first, rest])[np.argsort(places, kind="stable")]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--most-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = read_lines(paths.TEXTS)
    tokens = Tokens.cached([text["text"] for text in texts], paths.TOKENS)
    stored = vectors(len(texts), "r+")
    wanted = order(texts, read_lines(paths.PAIRS))
    wanted = wanted[~stored[wanted].any(axis=1) & (tokens.lengths[wanted] + 2 <= arguments.most_tokens)]
    teacher, began, done = Teacher(torch.bfloat16), time.monotonic(), 0
    for start in range(0, len(wanted), BLOCK):
        numbers = wanted[start : start + BLOCK]
        stored[numbers] = embed(teacher, tokens, numbers)
        stored.flush()
        done += int(tokens.lengths[numbers].sum())
        seconds = time.monotonic() - began
        print(f"{start + len(numbers)} of {len(wanted)} texts, {done / seconds:.0f} tokens/s", flush=True)
        if seconds > 60 * arguments.minutes:
            break


if __name__ == "__main__":
    main()
