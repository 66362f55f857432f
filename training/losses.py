"""What the student is trained to do: point where the teacher points, and tell a pair from all others."""

import torch
import torch.nn.functional as F

TEMPERATURE = 0.05


def distillation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """One minus the cosine to the teacher's vector, on average. Both [N, H], unit length."""
    return 1 - (student * teacher).sum(1).mean()


def similarities(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each text's similarities to the others, as a distribution, from the teacher's."""
    itself = torch.eye(len(student), dtype=torch.bool)
    logits = [(x @ x.T / TEMPERATURE).masked_fill(itself, -1e4) for x in (student, teacher)]
    ours, theirs = (F.log_softmax(x, dim=1) for x in logits)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def contrast(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """Each query is to find its passage among those of the batch, and each passage its query."""
    logits = queries @ passages.T / TEMPERATURE
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
