"""Load below and above what the server can do: goodput, latencies, memory, and whether any request is lost.

usage: load.py BINARY [--model synthetic:2k] [--words 100] [--seconds 20] [--shares 50,90,150,300] [--queue-seconds 5]
               [--oha oha] [-- OPTION ...]

First clients that each wait for their answer before they ask again (a closed loop) measure the capacity. Then requests come at
random moments at a share of it, whether or not others are still waiting (an open loop, with a connection for each request that
waits). OPTIONs go to `danaus serve`; --max-queue-seconds is added where the binary knows it. With --oha, that program makes the
requests (https://github.com/hatoo/oha; `cargo install oha --locked`), at even moments in the open loop.

Fails where a request is lost, where memory at the last share is above the closed loop's by more than what waits explains, and,
in a run of at least 60 seconds, where goodput above 100 % falls below 85 % of the capacity. The short form, for every run of the
system test: --words 20 --seconds 5 --shares 90,300. (With a smaller model these clients would be slower than the server.)
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter

import aiohttp

from server import HOST, Server, knows

# Clients of the closed loop: enough that the model is never idle.
CLIENTS = 16

# Most requests that wait at once in oha's open loop.
MOST_WAITING = 500

# Different texts for oha, which draws from them: equal ones in flight would be computed once.
TEXTS = 20_000

# Seconds after which a request without an answer counts as lost.
LOST = 300

# What a connection may take, in bytes, by the README's sum of the memory.
CONNECTION = 75 << 10

# What memory may rise by besides, in bytes: batches of --max-batch-tokens, which the closed loop's clients do not fill.
BATCHES = 64 << 20

# Seconds from which on a run says something about speed, and the goodput that it must then have above the capacity, as a share of it.
LONG, GOODPUT = 60, 0.85

WORDS = "monarch milkweed butterfly orange wing flight autumn forest north south wind of the and in a".split()


class Tally:
    """What became of requests."""

    def __init__(self):
        self.outcomes, self.latencies, self.hints, self.percentiles = Counter(), [], [], {}

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
        """Milliseconds within which that share of the requests with vectors was answered."""
        if self.percentiles:
            return 1000 * self.percentiles[f"p{100 * share:.0f}"]
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
        # 429: these few are too many for --max-queue-seconds only where the machine is slow, which is no fault.
        assert {200} <= set(tally.outcomes) <= {200, 429}, tally.outcomes
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


class Oha(Load):
    """The same with oha's requests."""

    def __init__(self, server, words, seconds, program, folder):
        super().__init__(server, words, seconds)
        self.program, self.bodies = program, os.path.join(folder, "bodies")
        with open(self.bodies, "w") as file:
            file.writelines(json.dumps({"query": self.text()}) + "\n" for _ in range(TEXTS))

    async def run(self, *options):
        """What oha says: what became of its requests, and how many seconds it took."""
        url = f"http://{HOST}:{self.server.port}/embed"
        body = ["-m", "POST", "-T", "application/json", "-Z", self.bodies, "-t", f"{LOST}s"]
        report = ["--no-tui", "--output-format", "json", "--stats-success-breakdown"]
        duration = ["-z", f"{self.seconds}s", "-w"]
        command = [self.program, *options, *duration, *body, *report, url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        peak, done = 0, asyncio.create_task(process.communicate())
        while not done.done():
            peak = max(peak, self.server.resident())
            await asyncio.wait([done], timeout=0.5)
        assert process.returncode == 0, "oha failed"
        said, tally = json.loads(done.result()[0]), Tally()
        tally.outcomes.update({int(status): count for status, count in said["statusCodeDistribution"].items()})
        tally.outcomes.update({f"lost: {error}": count for error, count in said["errorDistribution"].items()})
        tally.percentiles = said["latencyPercentilesSuccessful"]
        return tally, said["summary"]["total"], peak

    async def closed(self):
        tally, took, _ = await self.run("-c", str(CLIENTS))
        assert set(tally.outcomes) == {200}, tally.outcomes
        return tally.outcomes[200] / took, tally

    async def open(self, rate):
        tally, took, peak = await self.run("-c", str(MOST_WAITING), "-q", f"{rate:.0f}", "--latency-correction")
        offered = sum(tally.outcomes.values()) / self.seconds
        # Those that were let in are answered before it ends, so the time after the last request counts.
        return tally, tally.outcomes[200] / took, offered, peak, took - self.seconds


async def watched(server, work):
    """What `work` returns, and the most memory and descriptors that the server had meanwhile."""
    memory, descriptors, done = 0, 0, asyncio.ensure_future(work)
    while not done.done():
        memory, descriptors = max(memory, server.resident()), max(descriptors, server.descriptors())
        await asyncio.wait([done], timeout=0.1)
    return done.result(), memory, descriptors


async def measure(load, arguments):
    await load.closed()  # warm
    (capacity, tally), memory, _ = await watched(load.server, load.closed())
    print(
        f"load: closed loop, {CLIENTS} clients: {capacity:.1f} requests/s, {dict(tally.outcomes)}, p50 {tally.percentile(0.5):.0f} ms, "
        f"p99 {tally.percentile(0.99):.0f} ms, peak {memory / 1e6:.0f} MB",
        flush=True,
    )
    for share in arguments.shares:
        measured, _, descriptors = await watched(load.server, load.open(capacity * share / 100))
        tally, goodput, offered, peak, drained = measured
        hints = f", Retry-After {min(tally.hints)} to {max(tally.hints)} s" if tally.hints else ""
        print(
            f"load: open loop, {share} %: offered {offered:.1f}/s, goodput {goodput:.1f}/s, {dict(tally.outcomes)}, "
            f"p50 {tally.percentile(0.5):.0f} ms, p99 {tally.percentile(0.99):.0f} ms, peak {peak / 1e6:.0f} MB, "
            f"{drained:.1f} s to drain{hints}",
            flush=True,
        )
        # Among the unexpected are those that were lost.
        assert set(tally.outcomes) <= {200, 429, 503, 504}, tally.outcomes
        if share > 100 and arguments.seconds >= LONG:
            assert goodput >= GOODPUT * capacity, f"goodput {goodput:.1f}/s, capacity {capacity:.1f}/s"
        await asyncio.sleep(1)
    allowed = memory + descriptors * CONNECTION + BATCHES
    assert peak <= allowed, f"memory rose to {peak / 1e6:.0f} MB, above {allowed / 1e6:.0f} MB"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--model", default="synthetic:2k")
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--shares", default="50,90,150,300", type=lambda text: [int(share) for share in text.split(",")])
    parser.add_argument("--queue-seconds", default="5", help="for --max-queue-seconds, where the binary knows it")
    parser.add_argument("--oha", help="oha, to make the requests with")
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    options = ["--padding", "none", "--log-level", "warn,danaus::commands=info", *arguments.options]
    if knows(arguments.binary, "--max-queue-seconds"):
        options += ["--max-queue-seconds", arguments.queue_seconds]
        print(f"load: with --max-queue-seconds {arguments.queue_seconds}")
    with tempfile.TemporaryDirectory() as folder, Server(arguments.binary, arguments.model, *options) as server:
        work = server, arguments.words, arguments.seconds
        await measure(Oha(*work, arguments.oha, folder) if arguments.oha else Load(*work), arguments)


if __name__ == "__main__":
    asyncio.run(main())
