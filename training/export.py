"""Step 4: writes the student as danaus reads it, and golden cases for danaus's tests.

    python export.py

Tables and matrices as 8-bit integers with a factor for each row, filters' MLPs in float16, the rest in float32: `config.json` and
`model.safetensors` in models/builtin, `embeddings.json` in tests/fixtures/builtin. The golden cases are computed by PyTorch in
float32 from what was written.
"""

import argparse
import json

import torch
from safetensors.torch import load_file, save_file

import paths
from data import Tokens
from model import Config, LongFilter, Student

MAX_BYTES = 16_000_000
SCALE = ".scale"
TEXTS = [
    "monarch",
    "What is machine learning?",
    "list directory contents",
    "The cat sat on the mat, and the dog lay beside it.",
    "Überraschung: naïve café 日本語 \U0001f98b",
    "How do I find out which process listens on a port, and stop it without restarting the machine?",
]
# Tokens of longer cases, which repeat the texts above.
LENGTHS = [33, 64, 200, 513, 2048]


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit integers, and a factor for each row."""
    scale = weight.abs().amax(-1).clamp_min(1e-12) / 127
    return (weight / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scale


def filter_tensors(prefix: str, long_filter: LongFilter) -> dict[str, torch.Tensor]:
    """A long filter's tensors by the checkpoint's names."""
    found = {prefix + "bias": long_filter.bias, prefix + "modulation.deltas": long_filter.deltas[None, None]}
    for direction, mlp in enumerate(("implicit_filter", "implicit_filter_rev")):
        for i, index in enumerate((0, 2, 4)):
            name = f"{prefix}{mlp}.{index}"
            found[name + ".weight"] = long_filter.weights[i][direction]
            found[name + ".bias"] = long_filter.biases[i][direction]
            found[f"{prefix}{mlp}.{index + 1}.freq"] = long_filter.freqs[i][None]
        found[f"{prefix}{mlp}.6.weight"] = long_filter.last[direction]
    return found


def tensors(student: Student) -> dict[str, torch.Tensor]:
    """Every tensor by the checkpoint's name, in float32. There is no trained pooler: the identity stands in for it."""
    hidden = student.c.hidden_size
    found = {
        "embeddings.word_embeddings.weight": student.word,
        "embeddings.token_type_embeddings.weight": student.token_type[None],
        "embeddings.LayerNorm.weight": student.norm.weight,
        "embeddings.LayerNorm.bias": student.norm.bias,
        "pooler.dense.weight": torch.eye(hidden),
        "pooler.dense.bias": torch.zeros(hidden),
    }
    for number, layer in enumerate(student.layers):
        mixer, mlp = f"encoder.layer.{number}.attention.", f"encoder.layer.{number}.mlp."
        found |= {
            mixer + "in_linear.weight": layer.in_weight,
            mixer + "in_linear.bias": layer.in_bias,
            mixer + "short_filter.weight": layer.short_weight[:, None],
            mixer + "short_filter.bias": layer.short_bias,
            mixer + "out_linear.weight": layer.out_weight,
            mixer + "out_linear.bias": layer.out_bias,
            mlp + "gated_layers.weight": layer.gated,
            mlp + "wo.weight": layer.wo,
            mlp + "wo.bias": layer.wo_bias,
            mlp + "layernorm.weight": layer.norm.weight,
            mlp + "layernorm.bias": layer.norm.bias,
        }
        found |= filter_tensors(mixer + "filter_fn.", layer.gated_filter)
        found |= filter_tensors(mixer + "filter_fn2.", layer.residual_filter)
    return {name: tensor.detach().float().contiguous() for name, tensor in found.items()}


def stored(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is written: large matrices as 8-bit integers, filters' small ones in float16."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in named.items():
        if "implicit_filter" in name and not name.endswith(".6.weight"):
            out[name] = tensor.half()
        elif tensor.ndim >= 2 and tensor.shape[-1] >= 32 and tensor.shape[-2] > 1:
            out[name], out[name + SCALE] = quantised(tensor)
        else:
            out[name] = tensor
    return out


def restored(written: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Written tensors in float32 again, by the rule that danaus has."""
    out = {}
    for name, tensor in written.items():
        if tensor.dtype == torch.int8:
            out[name] = tensor.float() * written[name + SCALE].unsqueeze(-1)
        elif not name.endswith(SCALE):
            out[name] = tensor.float()
    return out


def load_exported() -> Student:
    """The student from models/builtin."""
    student = Student(Config())
    named = restored(load_file(paths.BUILTIN / "model.safetensors"))
    own = tensors(student)
    if own.keys() != named.keys():
        raise SystemExit(f"other tensors than expected: {own.keys() ^ named.keys()}")
    for name, view in own.items():
        view.copy_(named[name])  # it shares its memory with the student's parameter
    return student


def golden(student: Student) -> dict:
    """Cases for danaus's tests: token ids and vectors."""
    tokens = Tokens.of(TEXTS)
    rows = [tokens.text(i, 2048) for i in range(len(TEXTS))]
    everything = [number for _ in range(2048) for number in range(len(TEXTS))]
    rows += [tokens.joined(everything[:length], length) for length in LENGTHS]
    cases = []
    with torch.inference_mode():
        for i, row in enumerate(rows):
            ids = torch.from_numpy(row)[None]
            vector = student(ids, torch.ones_like(ids, dtype=torch.bool))[0]
            text = {"text": TEXTS[i]} if i < len(TEXTS) else {}
            cases.append({**text, "ids": row.tolist(), "pooling": "mean", "embedding": vector.tolist()})
    return {"cases": cases}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    student = Student(Config())
    state = torch.load(paths.CHECKPOINT)
    student.load_state_dict(state["student"])
    paths.BUILTIN.mkdir(parents=True, exist_ok=True)
    file = paths.BUILTIN / "model.safetensors"
    save_file(stored(tensors(student)), file, metadata={"format": "pt"})
    if file.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes, more than {MAX_BYTES}")
    config = {**student.c.to_json(), "pool_all": True, "use_cls_token": False, "danaus_padding": "none"}
    (paths.BUILTIN / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    paths.FIXTURES.mkdir(parents=True, exist_ok=True)
    cases = golden(load_exported())
    (paths.FIXTURES / "embeddings.json").write_text(json.dumps(cases) + "\n")
    print(f"{file}: {file.stat().st_size} bytes; {state['progress']}")


if __name__ == "__main__":
    main()
