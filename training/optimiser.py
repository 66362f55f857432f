"""Adam for a large table of which each step touches a few rows."""

import torch


class RowAdam:
    """Adam on some rows at a time: those that a batch has; their moments stay as they are in between."""

    def __init__(self, table: torch.Tensor, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-8) -> None:
        self.table, self.betas, self.epsilon = table, betas, epsilon
        self.first = torch.zeros_like(table)
        self.second = torch.zeros_like(table)
        self.steps = torch.zeros(len(table), 1)

    @torch.no_grad()
    def step(self, rows: torch.Tensor, grad: torch.Tensor, rate: float) -> None:
        """Moves `rows` of the table (each once) against `grad`."""
        one, two = self.betas
        self.steps[rows] += 1
        first = self.first[rows].lerp_(grad, 1 - one)
        second = self.second[rows].lerp_(grad.square(), 1 - two)
        self.first[rows], self.second[rows] = first, second
        steps = self.steps[rows]
        denominator = (second / (1 - two**steps)).sqrt_().add_(self.epsilon)
        self.table[rows] -= rate * (first / (1 - one**steps)) / denominator

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from a checkpoint."""
        self.first, self.second, self.steps = state["first"], state["second"], state["steps"]
