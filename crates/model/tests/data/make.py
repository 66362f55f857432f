"""Writes the PyTorch files beside this script, with torch.save itself, from small.safetensors.

    cargo run --release -- synth --config crates/model/tests/data/small.json --seed 7 --out small
    cp small/model.safetensors crates/model/tests/data/small.safetensors
    python crates/model/tests/data/make.py

Needs PyTorch and NumPy; made with PyTorch 2.15.0. The files hold the same tensors in the ways in which people save
them; `tests/it/torch.rs` says what each must load as.
"""
import argparse
import json
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def read_safetensors(path):
    data = Path(path).read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    values = lambda info: np.frombuffer(data[start + info["data_offsets"][0]:start + info["data_offsets"][1]], "<f4")
    return {name: torch.from_numpy(values(info).reshape(info["shape"]).copy()) for name, info in header.items()}


def module_tree(tensors):
    """A module whose state_dict() has these names, so that it carries the version notes that every module's does."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=len(tensor.shape) > 1))
    return root


def strided(index, tensor):
    """The same values in another layout: transposed, with gaps, or in the middle of a larger storage."""
    if index % 3 == 0 and tensor.dim() > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if index % 3 == 1:
        wide = torch.full((*tensor.shape, 2), float("nan"))
        wide[..., 1] = tensor
        return wide[..., 1]
    flat = torch.full((tensor.numel() + 10,), float("nan"))
    flat[5:-5] = tensor.reshape(-1)
    return flat[5:-5].view(tensor.shape)


def main():
    tensors = read_safetensors(HERE / "small.safetensors")
    root = module_tree({f"model.bert.{name}": tensor for name, tensor in tensors.items()})
    torch.save(root.state_dict(), HERE / "module.pt")
    parameters = OrderedDict(root.named_parameters())
    torch.save({"epoch": 3, "loss": 0.5, "done": True, "tags": ["a", None], "lr": {"base": 1e-3}, "seed": 2**40,
                "state_dict": parameters}, HERE / "nested.pt", pickle_protocol=4)
    torch.save({name: strided(i, tensor) for i, (name, tensor) in enumerate(tensors.items())}, HERE / "strided.pt")
    shared = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    views, at = {}, 0
    for name, tensor in tensors.items():
        views[name] = shared[at:at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    torch.save({"state": {"model": views}}, HERE / "one-storage.pt", pickle_protocol=5)
    half = lambda i: torch.float16 if i % 2 else torch.bfloat16
    torch.save({name: tensor.to(half(i)) for i, (name, tensor) in enumerate(tensors.items())}, HERE / "half.pt")
    few = dict(list(tensors.items())[:2])
    torch.save({**few, **{name: t.double() for name, t in few.items()}}, HERE / "double.pt")
    torch.save(few, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": few}, HERE / "namespace.pt")
    torch.save(torch.nn.Linear(2, 2), HERE / "whole-module.pt")
    torch.save([tensors["pooler.dense.bias"]], HERE / "list.pt")


if __name__ == "__main__":
    main()
