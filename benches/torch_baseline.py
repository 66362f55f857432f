"""M2-BERT in PyTorch, the way a Python service would run it: the baseline that benchmarks compare against.

    python torch_baseline.py 8 128 512            # milliseconds per forward pass at these lengths, batch of one
    python torch_baseline.py --batch 32 16 64     # batches of 32 texts
    python torch_baseline.py --device cuda --bf16 --batch 32 16 512
    python torch_baseline.py --serve --port 9000  # POST /embed {"query": ...}: the API, for whole-service comparisons

Same operations as the published PyTorch model (filters evaluated at each forward, FFT of length 2T, batched
block-diagonal matmul), without its per-layer NaN checks, so up to twice as fast as it. `--cache-filters`
keeps the filters between calls, which is kinder to PyTorch than the published code. Float32 unless --bf16.
Weights are the synthetic ones of m2bert.py.
Needs torch and numpy; --serve also needs fastapi, uvicorn and tokenizers.
"""
import argparse
import asyncio
import pathlib
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F

import m2bert


class Model:
    def __init__(self, config, seed=1, cache_filters=False, device="cpu", bf16=False):
        self.c, self.cache = config, {} if cache_filters else None
        self.w = {k: torch.from_numpy(v).to(device) for k, v in m2bert.synthetic_weights(config, seed).items()}
        self.device, self.bf16 = device, bf16  # bf16: the four linear layers of each layer; filters, FFT and norms stay float32

    def product(self, f, x, weight):  # f(x, weight) in bf16 where asked, float32 out
        return f(x.bfloat16(), weight.bfloat16()).float() if self.bf16 else f(x, weight)

    def taps(self, prefix, mlp, length):
        key = (prefix, mlp, length)
        if self.cache is not None and key in self.cache:
            return self.cache[key]
        w = self.w
        h = w[prefix + "pos_emb.z"][:, :length]
        for n in (0, 2, 4):
            h = torch.sin(self.c["hyena_w_mod"] * w[prefix + "implicit_filter.1.freq"] * F.linear(h, w[f"{prefix}{mlp}.{n}.weight"], w[f"{prefix}{mlp}.{n}.bias"]))
        h = F.linear(h, w[f"{prefix}{mlp}.6.weight"]) * torch.exp(-w[prefix + "pos_emb.t"][:, :length] * w[prefix + "modulation.deltas"].abs())
        h = h[0].T  # [H, T]
        if self.cache is not None:
            self.cache[key] = h
        return h

    def long_conv(self, x, prefix):  # x [B, H, T]
        T = x.shape[-1]
        kernel = F.pad(self.taps(prefix, "implicit_filter", T), (0, T)) + F.pad(self.taps(prefix, "implicit_filter_rev", T).flip(-1), (T, 0))
        y = torch.fft.irfft(torch.fft.rfft(x, n=2 * T) * torch.fft.rfft(kernel, n=2 * T), n=2 * T)[..., :T]
        return y + x * self.w[prefix + "bias"][:, None]

    @staticmethod
    def block_diagonal(x, weight):  # x [B, T, N*p], weight [N, q, p]
        N, q, p = weight.shape
        rows = x.reshape(-1, N, p).transpose(0, 1)
        return torch.bmm(rows, weight.transpose(1, 2)).transpose(0, 1).reshape(*x.shape[:-1], N * q)

    @torch.inference_mode()
    def hidden_states(self, ids):  # ids [B, T] -> [B, T, H]
        w, c = self.w, self.c
        H, I = c["hidden_size"], c["intermediate_size"]
        norm = lambda x, p: F.layer_norm(x, (H,), w[p + "weight"], w[p + "bias"], c["layer_norm_eps"])
        e = "embeddings."
        x = w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][0] + w[e + "position_embeddings.weight"][: ids.shape[1]]
        x = norm(x, e + "LayerNorm.")
        for i in range(c["num_hidden_layers"]):
            a, m = f"encoder.layer.{i}.attention.", f"encoder.layer.{i}.mlp."
            z = (self.product(F.linear, x, w[a + "in_linear.weight"]) + w[a + "in_linear.bias"]).transpose(1, 2)
            z = F.conv1d(z, w[a + "short_filter.weight"], w[a + "short_filter.bias"], padding=2, groups=3 * H)[..., : ids.shape[1]]
            x1, x2, v = z.split(H, dim=1)
            y = self.long_conv(v * x1, a + "filter_fn.") * x2 + self.long_conv(x.transpose(1, 2), a + "filter_fn2.")
            x = self.product(F.linear, y.transpose(1, 2), w[a + "out_linear.weight"]) + w[a + "out_linear.bias"]
            g = self.product(self.block_diagonal, x, w[m + "gated_layers.weight"])
            h = self.product(self.block_diagonal, F.gelu(g[..., :I]) * g[..., I:], w[m + "wo.weight"]) + w[m + "wo.bias"]
            x = norm(h + x, m + "layernorm.")
        return x

    def embed(self, ids, mask):  # [B, T], [B, T] -> [B, H], mean pooling, unit length
        h = self.hidden_states(ids) * mask.unsqueeze(-1)
        return F.normalize(h.sum(1) / mask.sum(1, keepdim=True), dim=1)


def bench(model, lengths, batch, passes):
    generator = torch.Generator().manual_seed(0)
    for T in lengths:
        ids = torch.randint(1000, 30000, (batch, T), generator=generator).to(model.device)
        mask = torch.ones(batch, T, device=model.device)
        model.embed(ids, mask).cpu()
        times, began = [], time.perf_counter()
        more = lambda: len(times) < passes if passes else len(times) < 3 or (len(times) < 30 and time.perf_counter() - began < 5)
        while more():
            start = time.perf_counter()
            model.embed(ids, mask).cpu()  # waits for the device
            times.append(time.perf_counter() - start)
        median = statistics.median(times)
        print(f"batch {batch} length {T}: median {median * 1e3:.2f} ms, min {min(times) * 1e3:.2f} ms, {batch * T / median:.0f} tokens/s", flush=True)


def serve(model, tokenizer_path, port):
    from concurrent.futures import ThreadPoolExecutor

    import uvicorn
    from fastapi import Body, FastAPI
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    pool, app = ThreadPoolExecutor(torch.get_num_threads()), FastAPI()

    def run(texts):
        encoded = tokenizer.encode_batch(texts)
        ids, mask = (torch.tensor([getattr(e, k) for e in encoded]) for k in ("ids", "attention_mask"))
        return model.embed(ids.to(model.device), mask.float().to(model.device)).tolist()

    @app.post("/embed")
    async def embed(body: dict = Body(...)):
        texts = [body["query"]] if isinstance(body["query"], str) else body["query"]
        loop = asyncio.get_running_loop()
        parts = await asyncio.gather(*(loop.run_in_executor(pool, run, texts[i : i + 32]) for i in range(0, len(texts), 32)))
        vectors = [v for part in parts for v in part]
        return {"embeddings": vectors, "dimension": len(vectors[0]), "count": len(vectors)}

    @app.get("/health")
    async def health():
        return {"status": "healthy"}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("lengths", nargs="*", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--passes", type=int, help="at each length, after the first [default: 3 to 30, in about 5 seconds]")
    parser.add_argument("--cache-filters", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--bf16", action="store_true", help="bf16 in the linear layers")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--tokenizer", default=str(pathlib.Path(__file__).resolve().parent.parent / "crates/model/assets/tokenizer.json"))
    args = parser.parse_args()
    model = Model(m2bert.CONFIG_80M_32K, cache_filters=args.cache_filters, device=args.device, bf16=args.bf16)
    if args.serve:
        serve(model, args.tokenizer, args.port)
    else:
        bench(model, args.lengths or [8, 16, 32, 128, 512, 2048], args.batch, args.passes)
