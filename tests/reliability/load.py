"""Load below and above what the server can do: goodput, latencies, memory, and whether any request is lost.

usage: load.py BINARY [--model synthetic:2k] [--words 100] [--seconds 20] [--shares 50,90,150,300] [-- OPTION ...]

First clients that each wait for their answer before they ask again (a closed loop) measure the capacity. Then requests come at
random moments at a share of it, whether or not others are still waiting (an open loop, with a connection for each request that
waits). OPTIONs go to `danaus serve`; --max-queue-seconds is added where the binary knows it.
"""

import argparse
import asyncio
import os
import random
import time
from collections import Counter

import aiohttp

from server import HOST, Server, knows

# Clients of the closed loop: enough that the model is never idle.
CLIENTS = 16

# Seconds after which a request without an answer counts as lost.
LOST = 300

WORDS = "monarch milkweed butterfly orange wing flight autumn forest north south wind of the and in a".split()


class Tally:
    """What became of requests."""

    def __init__(self):
        self.outcomes, self.latencies, self.hints = Counter(), [], []

    async def ask(self, session, text):
        started = time.monotonic()
        try:
            async with session.post("/embed", json={"query": text}) as response:
                await response.read()
                self.outcomes[response.status] += 1
                if response.status == 200:
                    self.latencies.append(time.monotonic() - started)
                elif response.status == 429:
                    self.hints.append(int(response.headers["Retry-After"]))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.outcomes[f"lost: {type(error).__name__}"] += 1

    def percentile(self, share):
        latencies = sorted(self.latencies)
        return 1000 * latencies[min(int(share * len(latencies)), len(latencies) - 1)] if latencies else float("nan")


class Load:
    def __init__(self, server, words, seconds):
        self.server, self.words, self.seconds = server, words, seconds
        self.random = random.Random(1)

    def text(self):
        return " ".join(self.random.choice(WORDS) for _ in range(self.words))

    def session(self):
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=LOST)
        return aiohttp.ClientSession(f"http://{HOST}:{self.server.port}", connector=connector, timeout=timeout)

    async def closed(self):
        """Requests a second that clients get who wait for each answer."""
        tally = Tally()
        end = time.monotonic() + self.seconds

        async def client(session):
            while time.monotonic() < end:
                await tally.ask(session, self.text())

        async with self.session() as session:
            await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        assert set(tally.outcomes) == {200}, tally.outcomes
        return tally.outcomes[200] / self.seconds, tally

    async def open(self, rate):
        """Requests at random moments, `rate` a second on average."""
        tally, peak = Tally(), 0
        started = time.monotonic()
        due, requests = started, []
        async with self.session() as session:
            while due < started + self.seconds:
                await asyncio.sleep(max(0, due - time.monotonic()))
                requests.append(asyncio.create_task(tally.ask(session, self.text())))
                due += self.random.expovariate(rate)
                peak = max(peak, self.server.resident())
            offered = time.monotonic() - started
            in_time = tally.outcomes[200]
            await asyncio.gather(*requests)
        return tally, in_time / offered, len(requests) / offered, peak, time.monotonic() - started - offered


async def measure(server, arguments):
    load = Load(server, arguments.words, arguments.seconds)
    await load.closed()  # warm
    capacity, tally = await load.closed()
    print(f"load: closed loop, {CLIENTS} clients: {capacity:.1f} requests/s, p50 {tally.percentile(0.5):.0f} ms, p99 {tally.percentile(0.99):.0f} ms")
    for share in arguments.shares:
        tally, goodput, offered, peak, drained = await load.open(capacity * share / 100)
        lost = sum(count for outcome, count in tally.outcomes.items() if str(outcome).startswith("lost"))
        hints = f", Retry-After {min(tally.hints)} to {max(tally.hints)} s" if tally.hints else ""
        print(
            f"load: open loop, {share} %: offered {offered:.1f}/s, goodput {goodput:.1f}/s, {dict(tally.outcomes)}, "
            f"p50 {tally.percentile(0.5):.0f} ms, p99 {tally.percentile(0.99):.0f} ms, peak {peak / 1e6:.0f} MB, "
            f"{drained:.1f} s to drain{hints}",
            flush=True,
        )
        unexpected = set(tally.outcomes) - {200, 429, 503, 504}
        assert lost == 0 and not unexpected, tally.outcomes
        await asyncio.sleep(1)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--model", default="synthetic:2k")
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--shares", default="50,90,150,300", type=lambda text: [int(share) for share in text.split(",")])
    parser.add_argument("--queue-seconds", default="5", help="for --max-queue-seconds, where the binary knows it")
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    options = ["--padding", "none", "--log-level", "warn,danaus::commands=info", *arguments.options]
    if knows(arguments.binary, "--max-queue-seconds"):
        options += ["--max-queue-seconds", arguments.queue_seconds]
        print(f"load: with --max-queue-seconds {arguments.queue_seconds}")
    with Server(arguments.binary, arguments.model, *options) as server:
        await measure(server, arguments)


if __name__ == "__main__":
    asyncio.run(main())
