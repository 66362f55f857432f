"""Mixed traffic for a long time: memory and descriptors must be at the end what they were once warm, and every request answered.

usage: soak.py BINARY [--seconds 30] [--model MODEL] [--clients 8] [--pause 0]

Half of the clients' requests are short texts; the others are lists, long documents, the other APIs, malformed ones and clients
that leave. With a pause (its mean, in seconds) between a client's requests the machine has time for other work. Resident
memory is compared with that after a sixth of the time, five minutes at most.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter

import aiohttp

from server import HOST, Server, knows, small_model

# How much more memory than when warm is no leak: the allocator's own coming and going.
TOLERANCE = 0.05

# Below this growth, in bytes, a share says nothing: a small model's server is all of 40 MB.
SMALLEST_GROWTH = 8 << 20

WORDS = "monarch milkweed butterfly orange wing flight autumn forest north south wind of the and in a".split()


def text(randomness, words):
    return " ".join(randomness.choice(WORDS) for _ in range(randomness.randrange(1, words)))


def traffic(randomness):
    """A request: path, body, the status that is right."""
    kind = randomness.random()
    if kind < 0.5:
        return "/embed", {"query": text(randomness, 20)}, 200
    if kind < 0.6:
        return "/embed", {"query": [text(randomness, 30) for _ in range(randomness.randrange(1, 32))]}, 200
    if kind < 0.7:
        return "/embed", {"query": text(randomness, 3000), "truncate": True}, 200
    if kind < 0.75:
        return "/v1/embeddings", {"input": [text(randomness, 20)] * 3, "encoding_format": "base64"}, 200
    if kind < 0.8:
        return "/", {"inputs": text(randomness, 50), "truncate": True}, 200
    if kind < 0.85:
        return "/similarity", {"inputs": {"source_sentence": "a", "sentences": [text(randomness, 9)] * 4}}, 200
    if kind < 0.9:
        return "/tokenize", {"inputs": text(randomness, 200)}, 200
    if kind < 0.95:
        return "/embed", {"query": 7}, 422
    return "/embed", None, None


async def client(session, seed, end, pause, outcomes):
    randomness = random.Random(seed)
    while time.monotonic() < end:
        await asyncio.sleep(randomness.expovariate(1 / pause) if pause else 0)
        path, body, expected = traffic(randomness)
        if body is None:
            await leave(session, randomness)
            outcomes["left"] += 1
            continue
        async with session.post(path, json=body) as response:
            answer = await response.read()
            json.loads(answer)
            assert response.status == expected, (path, response.status, answer[:300])
            outcomes[response.status] += 1


async def leave(session, randomness):
    """Asks and does not wait for the answer."""
    request = asyncio.create_task(session.post("/embed", json={"query": [text(randomness, 100)] * 8}))
    await asyncio.sleep(randomness.random() / 200)
    request.cancel()
    try:
        (await request).close()
    except asyncio.CancelledError:
        pass


async def watch(server, end, samples):
    """Resident memory, each second."""
    started = time.monotonic()
    while time.monotonic() < end:
        samples.append((time.monotonic() - started, server.resident()))
        await asyncio.sleep(1)


async def soak(server, seconds, clients, pause):
    await server.embed()
    await asyncio.sleep(0.5)
    descriptors = server.descriptors()
    outcomes, samples = Counter(), []
    end = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(f"http://{HOST}:{server.port}", timeout=timeout) as session:
        work = [client(session, seed, end, pause, outcomes) for seed in range(clients)]
        await asyncio.gather(watch(server, end, samples), *work)
    await server.settled(descriptors)
    compare(samples, seconds, outcomes)


def compare(samples, seconds, outcomes):
    warm = min(seconds / 6, 300)
    window = max(seconds / 20, 3)
    before = statistics.median(size for at, size in samples if warm <= at < warm + window)
    after = statistics.median(size for at, size in samples if at >= seconds - window)
    growth = after - before
    print(
        f"soak: {seconds} s, {sum(outcomes.values())} requests {dict(outcomes)}; resident {before / 1e6:.1f} MB after "
        f"{warm:.0f} s, {after / 1e6:.1f} MB at the end ({100 * growth / before:+.1f} %), descriptors back to the start"
    )
    assert growth < max(TOLERANCE * before, SMALLEST_GROWTH if seconds < 600 else 0), "memory grows"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--model", help="default: a small synthetic one")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0, help="seconds between a client's requests, on average")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or small_model(arguments.binary, folder)
        options = ["--padding", "none", "--log-level", "warn,danaus::commands=info"]
        # Nobody is refused, however slow the machine is.
        options += ["--max-queue-seconds", "0"] if knows(arguments.binary, "--max-queue-seconds") else []
        with Server(arguments.binary, model, *options) as server:
            await soak(server, arguments.seconds, arguments.clients, arguments.pause)


if __name__ == "__main__":
    asyncio.run(main())
