"""Resident memory of a server whose limits are all reached at once, beside what the README's formula allows it.

    cargo build --release && python3 benches/memory/ceiling.py

Python's standard library, and Linux (/proc), are all it needs.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time

DANAUS = sys.argv[1] if len(sys.argv) > 1 else "target/release/danaus"
MIB = 1 << 20
CONNECTIONS, CACHE, INFLIGHT = 1000, 256, 64
# Workspace of a pass of 2,048 tokens: what such texts add where --filter-cache is 0.
WORKSPACE = 27
OPTIONS = f"""serve --host 127.0.0.1 --port 0 --model synthetic:2k --padding none --read-timeout 300 --filter-cache {CACHE}
    --max-connections {CONNECTIONS} --max-inflight-bytes {INFLIGHT}""".split()


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return [int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")]


class Server:
    def __init__(self):
        self.process = subprocess.Popen([DANAUS, *OPTIONS], stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr)
        self.port = next(int(found[1]) for line in lines if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        while b"200 OK" not in self.exchange(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
            time.sleep(0.2)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port))

    def exchange(self, request):
        with self.connect() as stream:
            stream.sendall(request)
            return stream.recv(65536)

    def embed(self, body):
        head = b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return self.exchange(head % len(body) + body)[9:12].decode()

    def together(self, bodies):
        statuses = []
        threads = [threading.Thread(target=lambda body=body: statuses.append(self.embed(body))) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(statuses)


server = Server()
loaded, loading = memory(server.process.pid)
print(f"loaded: {loaded} MiB, {loading} MiB while loading")
for words in (10, 100, 500, 1000, 3000):
    server.embed(json.dumps({"query": ["word " * words] * 4, "truncate": True}).encode())
print(f"filters kept and texts of full length computed: {memory(server.process.pid)[0]} MiB")
# Heads that never end, of nearly the longest that is read.
heads = [server.connect() for _ in range(CONNECTIONS - 100)]
for head in heads:
    head.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000)
time.sleep(2)
print(f"{len(heads)} connections: {memory(server.process.pid)[0]} MiB")
prose = "the quick brown fox jumps over the lazy dog, and then it rests. " * (32 * MIB // 64)
bodies = {
    "prose": (2, json.dumps({"query": prose[: 32 * MIB - 200], "truncate": True}).encode()),
    "tiny texts": (15, b'{"query":[' + b'"a",' * (8 * MIB - 10) + b'"a"]}'),
}
for name, (factor, body) in bodies.items():
    statuses = server.together([body] * 8)
    allowed = loaded + WORKSPACE + CACHE + factor * INFLIGHT + CONNECTIONS * 75 // 1024
    print(f"8 bodies of 32 MiB, {name}: at most {memory(server.process.pid)[1]} MiB, of {allowed}; {statuses}")
server.process.kill()
