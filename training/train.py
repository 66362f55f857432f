"""Step 3: trains the student.

    python train.py [--minutes 70] [--static-minutes 4]

First the token embeddings alone, whose mean is a quick student, then the whole encoder, which starts from them. A checkpoint is
written every few minutes; run it again to go on from it. Learning rates fall as the time (that of all runs together)
passes. `log.jsonl` gets the training and validation curves, which `plot.py` draws.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import losses
import paths
from corpus import Corpus
from data import batch as padded
from data import groups
from model import Config, Student
from optimiser import RowAdam
from sampler import Batch, Plan, Sampler
from teacher import Teacher

SEED = 1
WEIGHTS = {"distillation": 1.0, "similarities": 0.5, "contrast": 0.2}
RATES = {"static": (2e-3, 2e-3), "encoder": (1.5e-4, 3e-5)}  # of the weights, and of the token embeddings
FILTER_RATE = 0.1  # times the other weights' rate
WARM_UP_STEPS = 100
GROUP_TOKENS, MULTIPLE = 2048, 8
VALIDATE_SECONDS = {"static": 120, "encoder": 720}  # the encoder takes a minute for it
CHECKPOINT_SECONDS, LOG_STEPS = 150, 10


class Static(nn.Module):
    """The student without its layers: the mean of a function of each token, which the last layer computes at first."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        last = student.layers[-1]
        self.student, self.out_weight, self.last_norm = student, last.out_weight, last.norm

    def trained(self) -> list[nn.Parameter]:
        """What it trains, but for the token embeddings."""
        norms = [*self.student.norm.parameters(), *self.last_norm.parameters()]
        return [self.out_weight, self.student.token_type, *norms]

    def embed(self, rows: torch.Tensor, inverse: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """`rows` are embeddings of tokens, `inverse` says which of them the texts have, end to end."""
        x = self.student.norm(rows + self.student.token_type)
        x = self.last_norm(F.linear(x, self.out_weight))
        starts = torch.from_numpy(np.cumsum([0, *lengths[:-1]]))
        return F.normalize(F.embedding_bag(inverse, x, starts, mode="mean"), dim=1)


class Work:
    """Texts to embed: their tokens, whose embeddings are a leaf of the graph, and groups of similar length."""

    def __init__(self, word: torch.Tensor, rows: list[np.ndarray]) -> None:
        tokens, inverse = np.unique(np.concatenate(rows), return_inverse=True)
        self.tokens, self.inverse = torch.from_numpy(tokens), torch.from_numpy(inverse)
        self.table = word[self.tokens].requires_grad_()
        self.lengths = np.array([len(row) for row in rows])
        self.parts = np.split(inverse, np.cumsum(self.lengths)[:-1])
        self.groups = groups(self.lengths, GROUP_TOKENS)
        self.longest = int(self.lengths.max()) + MULTIPLE


class Trainer:
    """The student, its optimisers, and how far they are."""

    def __init__(self, corpus: Corpus, dtype: torch.dtype) -> None:
        torch.manual_seed(SEED)
        self.corpus, self.dtype = corpus, dtype
        self.student = Student(Config())
        self._start_from_teacher()
        self.static = Static(self.student)
        self.word = self.student.word.data
        named = [(name, p) for name, p in self.student.named_parameters() if name != "word"]
        # A filter's weights move all of its taps at once.
        filters = {"params": [p for name, p in named if "_filter." in name], "scale": FILTER_RATE}
        others = {"params": [p for name, p in named if "_filter." not in name], "scale": 1.0}
        self.optimisers = {
            "static": torch.optim.AdamW(self.static.trained(), betas=(0.9, 0.98), weight_decay=0.0),
            "encoder": torch.optim.AdamW([others, filters], betas=(0.9, 0.98), weight_decay=0.01),
        }
        self.tables = {stage: RowAdam(self.word) for stage in self.optimisers}
        self.progress = {stage: {"step": 0, "seconds": 0.0, "tokens": 0} for stage in self.optimisers}

    def _start_from_teacher(self) -> None:
        tables = Teacher().embeddings()
        with torch.no_grad():
            self.student.word.copy_(tables["word_embeddings.weight"])
            positions = tables["position_embeddings.weight"][:64].mean(0)
            self.student.token_type.copy_(tables["token_type_embeddings.weight"][0] + positions)
            self.student.norm.weight.copy_(tables["LayerNorm.weight"])
            self.student.norm.bias.copy_(tables["LayerNorm.bias"])

    def embed(self, stage: str, work: Work) -> torch.Tensor:
        """Vectors of texts; for the static stage with their graph, for the encoder without."""
        if stage == "static":
            return self.static.embed(work.table, work.inverse, work.lengths)
        with torch.no_grad():
            filters = self.student.filters(work.longest)
            vectors = [self._embed_group(work, group, filters) for group in work.groups]
        return torch.cat(vectors)[torch.from_numpy(np.argsort(np.concatenate(work.groups)))]

    def _embed_group(self, work: Work, group: np.ndarray, filters: list) -> torch.Tensor:
        ids, mask = padded([work.parts[i] for i in group], MULTIPLE if len(group) > 1 else 1)
        return self.student.embed(work.table[ids.T], mask.T, filters, self.dtype)[: len(group)]

    def step(self, stage: str, batch: Batch, done: float) -> dict[str, float]:
        """One step of training, `done` of the stage's time having passed; returns the losses."""
        work = Work(self.word, batch.rows)
        optimiser, progress = self.optimisers[stage], self.progress[stage]
        optimiser.zero_grad()
        vectors = self.embed(stage, work)
        leaf = vectors.detach().requires_grad_()
        parts = self._losses(leaf, batch)
        sum(WEIGHTS[name] * part for name, part in parts.items()).backward()
        if stage == "static":
            vectors.backward(leaf.grad)
        else:
            self._backward(work, leaf.grad)
        pace = min(1.0, (progress["step"] + 1) / WARM_UP_STEPS) * max(0.02, math.cos(math.pi / 2 * min(done, 1.0)))
        rate, word_rate = RATES[stage]
        for group in optimiser.param_groups:
            group["lr"] = rate * pace * group.get("scale", 1.0)
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimiser.step()
        self.tables[stage].step(work.tokens, work.table.grad, word_rate * pace)
        progress["step"] += 1
        progress["tokens"] += sum(map(len, batch.rows))
        return {name: part.item() for name, part in parts.items()}

    def _losses(self, vectors: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        taught = torch.from_numpy(batch.taught)
        ours, theirs = vectors[taught], F.normalize(torch.from_numpy(batch.targets)[taught], dim=1)
        parts = {"contrast": losses.contrast(vectors[batch.queries], vectors[batch.passages])}
        if len(ours) > 1:  # pairs need no teacher, and may have none yet
            parts["distillation"] = losses.distillation(ours, theirs)
            parts["similarities"] = losses.similarities(ours, theirs)
        return parts

    def _backward(self, work: Work, grad: torch.Tensor) -> None:
        """Computes the encoder again, a group at a time, for the gradients of its weights from those of the vectors.

        (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021.) A group's hidden states are
        gone before the next one's come, so that a batch takes no more memory than its largest group.
        """
        filters = self.student.filters(work.longest)
        leaves = [tuple(taps.detach().requires_grad_() for taps in layer) for layer in filters]
        for group in work.groups:
            self._embed_group(work, group, leaves).backward(grad[torch.from_numpy(group)])
        taps = [taps for layer in filters for taps in layer]
        torch.autograd.backward(taps, [leaf.grad for layer in leaves for leaf in layer])

    @torch.no_grad()
    def validate(self, stage: str) -> dict[str, float]:
        """Distance to the teacher on validation texts, and how many passages their queries find among the ten first."""
        random, result = np.random.default_rng(SEED), {}
        numbers = self.corpus.numbers("validation")
        if len(numbers):
            numbers = random.choice(numbers, min(1000, len(numbers)), replace=False)
            vectors = self._vectors(stage, numbers)
            targets = torch.from_numpy(self.corpus.vectors[numbers].astype(np.float32))
            result["distance"] = losses.distillation(vectors, F.normalize(targets, dim=1)).item()
        for task in ("package", "manual", "section"):
            pairs = self.corpus.pairs("validation", task)
            pairs = random.choice(pairs, min(400, len(pairs)), replace=False)
            queries, passages = self._vectors(stage, pairs[:, 0]), self._vectors(stage, pairs[:, 1])
            similar = queries @ passages.T
            better = (similar > similar.diagonal()[:, None]).sum(1)
            result[f"{task}_at_1"] = (better < 1).float().mean().item()
            result[f"{task}_at_10"] = (better < 10).float().mean().item()
        return result

    def _vectors(self, stage: str, numbers: np.ndarray) -> torch.Tensor:
        rows = [self.corpus.tokens.text(n, 256) for n in numbers]
        return torch.cat([self.embed(stage, Work(self.word, rows[i : i + 256])) for i in range(0, len(rows), 256)])

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "student": self.student.state_dict(),
            "optimisers": {stage: o.state_dict() for stage, o in self.optimisers.items()},
            "tables": {stage: t.state_dict() for stage, t in self.tables.items()},
            "progress": self.progress,
        }
        beside = paths.CHECKPOINT.with_suffix(".new")
        torch.save(state, beside)
        beside.replace(paths.CHECKPOINT)

    def resume(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        if not paths.CHECKPOINT.exists():
            return
        state = torch.load(paths.CHECKPOINT)
        self.student.load_state_dict(state["student"])
        for stage, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][stage])
            self.tables[stage].load_state_dict(state["tables"][stage])
        self.progress = state["progress"]

    def run(self, stage: str, plan: Plan, minutes: float) -> None:
        """Trains a stage until its time has passed."""
        sampler, progress = Sampler(self.corpus, plan, SEED), self.progress[stage]
        means: dict[str, float] = {}
        now = time.monotonic()
        validated = saved = now
        while progress["seconds"] < 60 * minutes:
            batch = sampler.batch(progress["step"], long=stage == "encoder")
            found = self.step(stage, batch, progress["seconds"] / (60 * minutes))
            means = {name: 0.9 * means.get(name, value) + 0.1 * value for name, value in found.items()}
            then, now = now, time.monotonic()
            progress["seconds"] += now - then
            last = progress["seconds"] >= 60 * minutes
            if progress["step"] % LOG_STEPS == 0:
                log(stage, progress, means)
            if last or now - validated > VALIDATE_SECONDS[stage]:
                log(stage, progress, {"validation": self.validate(stage)})
                validated = time.monotonic()
            if last or now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
            now = time.monotonic()


def log(stage: str, progress: dict, values: dict) -> None:
    """A line of the training log."""
    line = json.dumps({"stage": stage, **progress, **values})
    print(line, flush=True)
    with paths.LOG.open("a") as file:
        file.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--static-minutes", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(Corpus(), getattr(torch, arguments.dtype))
    trainer.resume()
    trainer.run("static", Plan(pairs=192, texts=640, near=48), arguments.static_minutes)
    trainer.run("encoder", Plan(), arguments.minutes)


if __name__ == "__main__":
    main()
