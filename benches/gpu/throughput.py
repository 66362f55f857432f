#!/usr/bin/env python3
"""How many short texts a second `danaus serve` embeds over HTTP, on a GPU and on the CPU, one after the other.

    benches/gpu/throughput.py [--danaus target/release/danaus] [--devices cuda,cpu] [--seconds 5] [-- OPTION ...]

For each device a server is started (OPTIONs go to it), asked for one text at a time while it is idle, and then for 32 texts a request
of 16 tokens each, all different, over keep-alive connections from several processes: POST /v1/embeddings with encoding_format base64.
After a warm-up, what is answered within so many seconds counts. Answers are read and not parsed: the clients' share of the CPU is
printed, to be seen to be small. So is where the server spends its time, from its /metrics.

Padding is none, and nothing is cached. Needs Linux and Python's standard library alone.
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import random
import re
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time

HOST = "127.0.0.1"

# Each is one token of bert-base-uncased; with [CLS] and [SEP], so many of them are a text of 16.
WORDS = (
    "time person year way day thing man world life hand part child eye woman place work week case point government company number "
    "group problem fact good new first last long great little own other old right big high different small large next early young "
    "important few public bad same able river forest garden window music paper summer winter silver orange butterfly wing flight "
    "north south east west island mountain valley bridge station market school church letter story dream shadow silence thunder"
).split()
WORDS_PER_TEXT = 14

# Requests that a client has prepared, and sends in turn.
PREPARED = 300

# Seconds within which a server must be ready: kernels are compiled for the GPU at the first start.
PATIENCE = 180

STAGES = ("read", "tokenise", "queue", "compute", "finish", "respond")


def arguments():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--danaus", default="target/release/danaus", help="the binary")
    parser.add_argument("--devices", default="cuda,cpu", help="in this order [default: cuda,cpu]")
    parser.add_argument("--model", default="synthetic:2k")
    parser.add_argument("--seconds", type=float, default=5, help="that count [default: 5]")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds before [default: 2]")
    parser.add_argument("--processes", type=int, default=max(1, min(4, cores // 4)), help="clients [default: a quarter of the cores, 1 to 4]")
    parser.add_argument("--connections", type=int, default=8, help="of each client [default: 8]")
    parser.add_argument("--texts", type=int, default=32, help="in a request [default: 32]")
    parser.add_argument("--alone", type=int, default=200, help="requests of one text at an idle server [default: 200]")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="for danaus serve, after --")
    return parser.parse_args()


def request(draw, texts):
    """The bytes of a POST."""
    body = json.dumps({
        "input": [" ".join(draw.choices(WORDS, k=WORDS_PER_TEXT)) for _ in range(texts)],
        "encoding_format": "base64",
    }).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """A keep-alive connection with at most one request under way."""

    LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

    def __init__(self, port):
        self.socket = socket.create_connection((HOST, port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.missing = bytearray(1 << 20), None

    def send(self, data):
        self.socket.sendall(data)
        self.missing = None

    def receive(self):
        """Takes what has come; returns whether that was the answer's end."""
        got = self.socket.recv_into(self.buffer)
        if not got:
            raise SystemExit("the server closed a connection")
        if self.missing is None:
            # The head comes whole: it is the first that is written.
            head = bytes(self.buffer[: min(got, 4096)])
            end = head.index(b"\r\n\r\n") + 4
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"not 200: {bytes(self.buffer[:got]).decode()}")
            self.missing = end + int(self.LENGTH.search(head[:end])[1])
        self.missing -= got
        return self.missing == 0

    def ask(self, data):
        """Seconds that one request takes."""
        started = time.perf_counter()
        self.send(data)
        while not self.receive():
            pass
        return time.perf_counter() - started


def client(number, port, options, start, results):
    """Keeps its connections busy, and counts what is answered after the warm-up."""
    draw = random.Random(number)
    requests = [request(draw, options.texts) for _ in range(PREPARED)]
    connections = [Connection(port) for _ in range(options.connections)]
    selector, sent, answered = selectors.DefaultSelector(), 0, 0
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    start.wait()
    now = time.monotonic()
    begin, end, used = now + options.warm_up, now + options.warm_up + options.seconds, None
    for connection in connections:
        connection.send(requests[sent % PREPARED])
        sent += 1
    while now < end:
        for key, _ in selector.select(timeout=max(0.0, end - now)):
            if key.data.receive():
                answered += used is not None
                key.data.send(requests[sent % PREPARED])
                sent += 1
        now = time.monotonic()
        if used is None and now >= begin:
            used, began = cpu_seconds(), now
    results.put((answered, now - began, cpu_seconds() - used))


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Server:
    """A running `danaus serve`, as a context manager."""

    def __init__(self, options, device, folder):
        self.log_path = pathlib.Path(folder, f"{device}.log")
        command = [options.danaus, "serve", "--model", options.model, "--device", device, "--host", HOST, "--port", "0"]
        self.command = [*command, "--padding", "none", "--padding-cache", folder, "--log-level", "info", *options.options]

    def __enter__(self):
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.port = self.until(self.listens)
            self.until(lambda: self.get("/health"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def until(self, what):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if result := what():
                return result
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"the server is not ready:\n{self.log_path.read_text()}")

    def listens(self):
        found = re.search(r"address=\S*:(\d+)", self.log_path.read_text())
        return found and int(found[1])

    def get(self, path):
        """The body, if that is answered with 200."""
        try:
            with socket.create_connection((HOST, self.port), timeout=60) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            return None
        return answer.partition(b"\r\n\r\n")[2].decode() if answer.startswith(b"HTTP/1.1 200 ") else None

    def metrics(self):
        pairs = re.findall(r"^(danaus_\S+(?:\{[^}]*\})?) (\S+)$", self.get("/metrics"), re.MULTILINE)
        return {name: float(value) for name, value in pairs}

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ready_line(self):
        """What the log says of the device, without the times."""
        line = next((line for line in self.log_path.read_text().splitlines() if "model ready" in line), "")
        return " ".join(re.findall(r'\b(?:device|gpu|dtype|instruction_set|threads|crossover)=(?:"[^"]*"|\S+)', line))


def tokens_of_a_text(port, options):
    connection = Connection(port)
    connection.ask(request(random.Random(0), 1))
    body = bytes(connection.buffer).partition(b"\r\n\r\n")[2]
    return json.JSONDecoder().raw_decode(body.decode(errors="ignore"))[0]["usage"]["prompt_tokens"]


def alone(port, options):
    """Median and 99th percentile of single texts, in milliseconds."""
    draw, connection = random.Random(-1), Connection(port)
    data = [request(draw, 1) for _ in range(options.alone + 10)]
    times, end = [], time.monotonic() + 5
    for one in data:
        times.append(connection.ask(one) * 1e3)
        if time.monotonic() > end:
            break
    times = sorted(times[10:] or times)
    return times[len(times) // 2], times[len(times) * 99 // 100]


def loaded(server, options):
    """What the clients got, and what the server says of the same seconds."""
    start, results = multiprocessing.Event(), multiprocessing.Queue()
    clients = [
        multiprocessing.Process(target=client, args=(number, server.port, options, start, results), daemon=True)
        for number in range(options.processes)
    ]
    for process in clients:
        process.start()
    # Their requests are made first.
    time.sleep(1)
    start.set()
    time.sleep(options.warm_up)
    metrics, used, began = server.metrics(), server.cpu_seconds(), time.monotonic()
    time.sleep(options.seconds)
    used, elapsed = server.cpu_seconds() - used, time.monotonic() - began
    later = server.metrics()
    metrics = {name: later[name] - metrics.get(name, 0.0) for name in later}
    got = [take(results, clients) for _ in clients]
    for process in clients:
        process.join()
    rate = sum(answered / seconds for answered, seconds, _ in got)
    shares = [cpu / seconds for _, seconds, cpu in got]
    return rate, shares, used / elapsed, elapsed, metrics


def take(results, clients):
    while results.empty():
        if any(process.exitcode for process in clients):
            raise SystemExit("a client failed")
        time.sleep(0.01)
    return results.get()


def stage_line(metrics, elapsed):
    """Where requests spent their time, and how busy the model was, in those seconds."""
    parts = []
    for stage in STAGES:
        name, label = "danaus_stage_duration_seconds", f'{{stage="{stage}"}}'
        count = metrics.get(f"{name}_count{label}", 0)
        if count:
            parts.append(f"{stage} {metrics[f'{name}_sum{label}'] / count * 1e3:.2f}")
    busy = metrics.get("danaus_compute_seconds_total", 0) / elapsed
    batches = metrics.get("danaus_batch_texts_count", 0)
    texts = metrics.get("danaus_batch_texts_sum", 0) / batches if batches else 0
    return f"  a request's stages, mean ms: {', '.join(parts)}; the model computes {busy:.0%} of the time, {texts:.0f} texts a batch"


def measure(device, options, folder):
    """Prints a device's figures and returns its texts a second."""
    with Server(options, device, folder) as server:
        tokens = tokens_of_a_text(server.port, options)
        median, late = alone(server.port, options)
        rate, shares, used, elapsed, metrics = loaded(server, options)
        demoted = server.metrics().get("danaus_device_demoted", 0)
    texts = rate * options.texts
    print(f"{device}: {server.ready_line()}{' GIVEN UP MEANWHILE, for the CPU' if demoted else ''}")
    print(f"  {texts:,.0f} texts/s, {texts * tokens:,.0f} tokens/s ({tokens} a text), {rate:,.1f} requests/s")
    print(f"  one text at an idle server: median {median:.2f} ms, 99 % within {late:.2f} ms")
    print(stage_line(metrics, elapsed))
    print(f"  CPU: the server uses {used:.1f} cores, the clients {sum(shares):.2f}; the busiest client {max(shares):.0%} of its own", flush=True)
    return math.nan if demoted else texts


def main():
    options = arguments()
    cores = len(os.sched_getaffinity(0))
    print(f"{options.model}, {options.texts} texts a request, {options.processes} clients of {options.connections} connections, {cores} cores, {options.seconds:g} s")
    rates, failed = {}, False
    with tempfile.TemporaryDirectory(prefix="danaus-throughput-") as folder:
        for device in options.devices.split(","):
            try:
                rates[device] = measure(device, options, folder)
            except SystemExit as error:
                print(f"{device}: {error}", flush=True)
                failed = True
    failed |= any(math.isnan(rate) for rate in rates.values())
    if len(rates) > 1 and "cpu" in rates:
        for device in rates.keys() - {"cpu"}:
            print(f"{device} answers {rates[device] / rates['cpu']:.1f} times as many texts as cpu")
    sys.exit(failed)


if __name__ == "__main__":
    main()
