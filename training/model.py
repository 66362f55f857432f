"""The student: M2-BERT as danaus's engine computes it, in PyTorch, for training without padding.

Activations are `[T, B, H]` between layers and `[channels, T, B]` in the mixer, so that no product needs a transposition. Texts of a
batch may differ in length: what lies beyond a text's end is zeroed before each convolution, which is exactly what it is for
a text alone.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

# Up to this length a convolution is a product with a matrix; beyond, a Fourier transform is faster.
DIRECT_TOKENS = 192


@dataclass(frozen=True)
class Config:
    """Sizes, named as in `config.json`."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 4
    intermediate_size: int = 768
    monarch_mlp_nblocks: int = 4
    hyena_filter_order: int = 32
    hyena_emb_dim: int = 33
    long_conv_l_max: int = 2048
    layer_norm_eps: float = 1e-12

    def to_json(self) -> dict:
        """What `config.json` says, but for what only danaus reads."""
        switches = {
            "model_type": "m2_bert",
            "type_vocab_size": 1,
            "max_position_embeddings": self.long_conv_l_max,
            "use_positional_encodings": False,
            "hyena_w": 10,
            "hyena_w_mod": 1,
            "bidirectional": True,
            "residual_long_conv": True,
            "hyena_training_additions": False,
            "use_glu_mlp": True,
            "use_monarch_mlp": True,
            "pad_token_id": 0,
            "hidden_act": "gelu",
        }
        return {**asdict(self), **switches}


def positional_features(length: int, width: int) -> torch.Tensor:
    """What danaus computes where a checkpoint has no `pos_emb.z`: time, cosines, minus sines. [length, width]."""
    bands = (width - 1) // 2
    time = torch.linspace(0, 1, length, dtype=torch.float64)[:, None]
    angle = 2 * math.pi * torch.arange(length, dtype=torch.float64)[:, None] / length
    phase = angle * torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    return torch.cat([time, phase.cos(), -phase.sin()], dim=1).float()


class Hankel(torch.autograd.Function):
    """`y[c, T-1-i] = sum_j kernel[c, i+j] x[c, j]`: a convolution as one matrix product for each channel."""

    @staticmethod
    def forward(ctx, kernel: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(kernel, x)
        return torch.bmm(kernel.unfold(1, x.shape[1], 1), x).flip(1)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kernel, x = ctx.saved_tensors
        channels, length, _ = x.shape
        grad = grad.flip(1)
        products = torch.bmm(grad, x.transpose(1, 2))
        skewed = F.pad(products, (0, length)).reshape(channels, -1)[:, : length * (2 * length - 1)]
        taps = skewed.view(channels, length, 2 * length - 1).sum(1, dtype=torch.float32).to(kernel.dtype)
        return taps, torch.bmm(kernel.unfold(1, length, 1), grad)


def long_conv(x: torch.Tensor, forward: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
    """`y[i] = sum_{j<=i} forward[i-j] x[j] + sum_{j>i} reverse[j-i-1] x[j]`; x is [C, T, B], taps [C, T]."""
    length = x.shape[1]
    if length <= DIRECT_TOKENS:
        kernel = torch.cat([reverse[:, : length - 1].flip(1), forward], dim=1).flip(1)
        return Hankel.apply(kernel.to(x.dtype), x)
    kernel = torch.cat([forward, reverse.flip(1)], dim=1).float()
    spectrum = torch.fft.rfft(x.transpose(1, 2).float(), 2 * length) * torch.fft.rfft(kernel)[:, None]
    return torch.fft.irfft(spectrum, 2 * length)[..., :length].transpose(1, 2).to(x.dtype)


class LongFilter(nn.Module):
    """Taps in both directions, by MLPs with sine activations over positional features, under an exponential window."""

    def __init__(self, c: Config, skip: float) -> None:
        super().__init__()
        order, width = c.hyena_filter_order, c.hyena_emb_dim
        sizes = [(order, width), (order, order), (order, order)]
        self.weights = nn.ParameterList([_uniform(2, *s, bound=s[1] ** -0.5) for s in sizes])
        self.biases = nn.ParameterList([_uniform(2, order, bound=s[1] ** -0.5) for s in sizes])
        self.freqs = nn.ParameterList([nn.Parameter(torch.full((order,), freq)) for freq in (10.0, 3.0, 3.0)])
        self.last = nn.Parameter(torch.zeros(2, c.hidden_size, order))
        # From a few tokens to the whole length: some channels see neighbours, others everything.
        reach = torch.logspace(0.3, math.log10(2 * c.long_conv_l_max), c.hidden_size)
        self.deltas = nn.Parameter((c.long_conv_l_max - 1) / reach)
        self.bias = nn.Parameter(torch.full((c.hidden_size,), skip))
        self.register_buffer("z", positional_features(c.long_conv_l_max, width), persistent=False)
        self.register_buffer("t", torch.linspace(0, 1, c.long_conv_l_max, dtype=torch.float64).float(), persistent=False)

    def taps(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and reverse taps, each [H, length]."""
        h = self.z[:length].expand(2, -1, -1)
        for weight, bias, freq in zip(self.weights, self.biases, self.freqs, strict=True):
            h = torch.sin(freq * torch.baddbmm(bias[:, None], h, weight.transpose(1, 2)))
        window = torch.exp(-self.t[:length] * self.deltas.abs()[:, None])
        taps = torch.bmm(self.last, h.transpose(1, 2)) * window
        return taps[0], taps[1]


class Layer(nn.Module):
    """Sequence mixer and state mixer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        h, inner, n = c.hidden_size, c.intermediate_size, c.monarch_mlp_nblocks
        self.c = c
        self.in_weight = nn.Parameter(torch.randn(3 * h, h) * 0.6 / h**0.5)
        self.in_bias = nn.Parameter(torch.zeros(3 * h))
        self.short_weight = nn.Parameter(torch.tensor([0.15, 0.3, 0.8]).expand(3 * h, 3) + 0.1 * torch.randn(3 * h, 3))
        self.short_bias = nn.Parameter(torch.zeros(3 * h))
        # The layer begins as the identity, but for its LayerNorm: the residual convolution's skip is all that counts.
        self.gated_filter = LongFilter(c, skip=0.0)
        self.residual_filter = LongFilter(c, skip=1.0)
        self.out_weight = nn.Parameter(torch.eye(h))
        self.out_bias = nn.Parameter(torch.zeros(h))
        self.gated = nn.Parameter(torch.randn(n, 2 * inner // n, h // n) * (h // n) ** -0.5)
        self.wo = nn.Parameter(torch.zeros(n, h // n, inner // n))
        self.wo_bias = nn.Parameter(torch.zeros(h))
        self.norm = nn.LayerNorm(h, eps=c.layer_norm_eps)

    def filters(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Taps of both convolutions, one after the other: [2H, length] in each direction."""
        one, two = self.gated_filter.taps(length), self.residual_filter.taps(length)
        return torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])

    def mix(self, u: torch.Tensor, mask: torch.Tensor, filters: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The sequence mixer; u is [T, B, H], mask [T, B]."""
        (length, batch, hidden), dtype = u.shape, mask.dtype
        rows = u.reshape(-1, hidden).to(dtype)
        z = torch.addmm(self.in_bias.to(dtype)[:, None], self.in_weight.to(dtype), rows.T).view(-1, length, batch)
        past = F.pad(z, (0, 0, 2, 0))
        taps = self.short_weight.to(dtype)[:, :, None, None]
        z = past[:, :-2] * taps[:, 0] + past[:, 1:-1] * taps[:, 1] + z * taps[:, 2] + self.short_bias.to(dtype)[:, None, None]
        x1, x2, v = z.chunk(3)
        x = torch.cat([v * x1, rows.T.reshape(hidden, length, batch)]) * mask
        forward, reverse = (taps[:, :length] for taps in filters)
        skip = torch.cat([self.gated_filter.bias, self.residual_filter.bias]).to(dtype)[:, None, None]
        y, residual = (long_conv(x, forward, reverse) + skip * x).chunk(2)
        mixed = (y * x2 + residual).reshape(hidden, -1)
        return torch.addmm(self.out_bias.to(dtype), mixed.T, self.out_weight.to(dtype).T).view(u.shape)

    def forward(self, u: torch.Tensor, mask: torch.Tensor, filters: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = self.mix(u, mask, filters)
        dtype, n = mask.dtype, self.c.monarch_mlp_nblocks
        blocks = x.view(-1, n, self.c.hidden_size // n).transpose(0, 1)
        g = torch.bmm(blocks, self.gated.to(dtype).transpose(1, 2))
        inner = F.gelu(g[: n // 2]) * g[n // 2 :]  # each of its blocks feeds two of the second product's
        inner = inner.view(n // 2, -1, 2, self.c.intermediate_size // n).transpose(1, 2).flatten(0, 1)
        h = torch.bmm(inner, self.wo.to(dtype).transpose(1, 2)).transpose(0, 1).reshape(x.shape)
        return self.norm(h.float() + self.wo_bias + x.float())


class Student(nn.Module):
    """The encoder with mean pooling. `dtype` is that of the products: float32 is what the engine's `f32` computes."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.word = nn.Parameter(torch.randn(c.vocab_size, c.hidden_size) * 0.02)
        self.token_type = nn.Parameter(torch.zeros(c.hidden_size))
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))

    def filters(self, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's taps, which serve every shorter text too."""
        return [layer.filters(length) for layer in self.layers]

    def embed(
        self, rows: torch.Tensor, mask: torch.Tensor, filters: list, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """`rows` are word embeddings [T, B, H], `mask` [T, B]; returns unit vectors [B, H]."""
        mask = mask.to(dtype)
        x = self.norm(rows + self.token_type)
        for layer, taps in zip(self.layers, filters, strict=True):
            x = layer(x, mask, taps)
        kept = mask.float().unsqueeze(-1)
        return F.normalize((x * kept).sum(0) / kept.sum(0).clamp_min(1), dim=1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """`ids` and `mask` are [B, T]."""
        return self.embed(self.word[ids.T], mask.T, self.filters(ids.shape[1]), dtype)


def _uniform(*shape: int, bound: float) -> nn.Parameter:
    return nn.Parameter((torch.rand(shape) * 2 - 1) * bound)
