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
RATES = {"static": (2e-3, 2e-3), "encoder": (1.5e-3, 5e-4)}  # of the weights, and of the token embeddings
WARM_UP_STEPS = 100
GROUP_TOKENS = 2048
VALIDATE_SECONDS, CHECKPOINT_SECONDS, LOG_STEPS = 120, 150, 10


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


class Trainer:
    """The student, its optimisers, and how far they are."""

    def __init__(self, corpus: Corpus, dtype: torch.dtype) -> None:
        torch.manual_seed(SEED)
        self.corpus, self.dtype = corpus, dtype
        self.student = Student(Config())
        self._start_from_teacher()
        self.static = Static(self.student)
        self.word = self.student.word.data
        weights = [p for name, p in self.student.named_parameters() if name != "word"]
        self.optimisers = {
            "static": torch.optim.AdamW(self.static.trained(), betas=(0.9, 0.98), weight_decay=0.0),
            "encoder": torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.01),
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

    def embed(self, stage: str, rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of texts, the tokens that they have, and those tokens' embeddings as a leaf of the graph."""
        tokens, inverse = np.unique(np.concatenate(rows), return_inverse=True)
        tokens = torch.from_numpy(tokens)
        table = self.word[tokens].requires_grad_()
        lengths = np.array([len(row) for row in rows])
        if stage == "static":
            return self.static.embed(table, torch.from_numpy(inverse), lengths), tokens, table
        parts = np.split(inverse, np.cumsum(lengths)[:-1])
        filters = self.student.filters(int(lengths.max()))
        vectors: list[torch.Tensor] = []
        order = groups(lengths, GROUP_TOKENS)
        for group in order:
            ids, mask = padded([parts[i] for i in group])
            vectors.append(self.student.embed(table[ids.T], mask.T, filters, self.dtype))
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(vectors)[back], tokens, table

    def step(self, stage: str, batch: Batch, done: float) -> dict[str, float]:
        """One step of training, `done` of the stage's time having passed; returns the losses."""
        vectors, tokens, table = self.embed(stage, batch.rows)
        taught = torch.from_numpy(batch.taught)
        ours, theirs = vectors[taught], F.normalize(torch.from_numpy(batch.targets)[taught], dim=1)
        parts = {"contrast": losses.contrast(vectors[batch.queries], vectors[batch.passages])}
        if len(ours) > 1:  # pairs need no teacher, and may have none yet
            parts["distillation"] = losses.distillation(ours, theirs)
            parts["similarities"] = losses.similarities(ours, theirs)
        optimiser, progress = self.optimisers[stage], self.progress[stage]
        optimiser.zero_grad()
        sum(WEIGHTS[name] * part for name, part in parts.items()).backward()
        pace = min(1.0, (progress["step"] + 1) / WARM_UP_STEPS) * max(0.02, math.cos(math.pi / 2 * min(done, 1.0)))
        rate, word_rate = RATES[stage]
        for group in optimiser.param_groups:
            group["lr"] = rate * pace
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        self.tables[stage].step(tokens, table.grad, word_rate * pace)
        progress["step"] += 1
        progress["tokens"] += sum(map(len, batch.rows))
        return {name: part.item() for name, part in parts.items()}

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
        return torch.cat([self.embed(stage, rows[i : i + 256])[0] for i in range(0, len(rows), 256)])

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
            if last or now - validated > VALIDATE_SECONDS:
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
