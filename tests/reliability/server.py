"""Starting the binary, looking at its process from outside, and ending it."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"

# After this, what has not happened never will. Far above what any step takes, on a busy machine too.
PATIENCE = 120

# A model of the real architecture whose passes take a millisecond.
SMALL = Path(__file__).parent.parent / "system" / "small.json"


def small_model(binary, folder):
    """Writes a small synthetic model, and returns its folder."""
    model = Path(folder, "small")
    subprocess.run([binary, "synth", "--config", SMALL, "--out", model], check=True, stdout=subprocess.DEVNULL)
    return str(model)


def knows(binary, option):
    """Whether `danaus serve` has an option."""
    command = [binary, "serve", "--help"]
    return option in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def request(body, path="/embed", more=""):
    """The bytes of a POST."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """A running `danaus serve`; as a context manager, one that is ended and looked over."""

    def __init__(self, binary, model, *options, files=None, port=0, stderr=None, expect_errors=()):
        self.command = [binary, "serve", "--model", model, "--host", HOST, "--port", str(port), *options]
        self.files, self.stderr, self.expect_errors = files, stderr, expect_errors
        self.log_file = tempfile.NamedTemporaryFile(prefix="danaus-log-")
        self.process, self.port, self.terminated = None, port, False

    def start(self):
        def limit():
            if self.files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))

        stderr = self.stderr or self.log_file
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, preexec_fn=limit
        )
        if not self.port:
            self.port = wait_for("the log names the port", self._logged_port, self._alive)
        wait_for("the server is ready", self._ready, self._alive)
        return self

    def _alive(self):
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log()}"

    def _logged_port(self):
        for line in self.log().splitlines():
            if "listening" in line and "address=" in line:
                return int(line.split("address=")[1].split()[0].rsplit(":", 1)[1])
        return None

    def _ready(self):
        import http.client

        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def log(self):
        return Path(self.log_file.name).read_text(errors="replace")

    def resident(self):
        """Resident memory, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def terminate(self):
        """SIGTERM, once: a second one would end it at once."""
        if not self.terminated:
            self.terminated = True
            self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        """Ends it by SIGTERM, and fails where it did not end well or logged what it should not have."""
        self.terminate()
        code = self.process.wait(PATIENCE)
        assert code == 0, f"exit status {code}:\n{self.log()[-3000:]}"
        self.look_over_log()

    def look_over_log(self):
        for line in self.log().splitlines():
            bad = "panicked" in line or " ERROR " in line
            assert not bad or any(text in line for text in self.expect_errors), line

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            return self.end()
        print(f"the server's log ended:\n{self.log()[-2000:]}", file=sys.stderr)
        self.kill()

    async def connect(self, receive_buffer=None):
        """A connection's reader and writer."""
        if receive_buffer is None:
            return await asyncio.open_connection(HOST, self.port)
        import socket

        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (HOST, self.port))
        # asyncio reads 256 KiB ahead of whoever asks unless its own limit is as small.
        return await asyncio.open_connection(sock=connection, limit=receive_buffer)

    async def exchange(self, data, patience=PATIENCE):
        """Sends bytes on a connection of its own; status and body of the answer."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            return await asyncio.wait_for(read_answer(reader), patience)
        finally:
            writer.close()

    async def embed(self, text="a text"):
        """The vector of a text; fails where there is none."""
        status, body = await self.exchange(request({"query": text}))
        assert status == 200, body
        return json.loads(body)["embeddings"][0]

    async def exchange_when_there_is_room(self, data):
        """The body of an answer, asked for again where too many connections are open; fails where that does not end.

        With room for a single connection, whoever asked before has it until the server sees that it is gone.
        """
        end = time.monotonic() + PATIENCE
        while True:
            status, body = await self.exchange(data)
            if status == 200:
                return body
            assert status == 503 and time.monotonic() < end, body
            await asyncio.sleep(0.2)

    async def metric(self, name):
        body = await self.exchange_when_there_is_room(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        for line in body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    async def settled(self, descriptors):
        """Waits until nothing is queued or in flight and no more descriptors are open than before."""

        async def look():
            # The request that asks is in flight itself; its connection is closed a moment later.
            in_flight = await self.metric("danaus_http_requests_in_flight")
            queued = await self.metric("danaus_queue_texts")
            await asyncio.sleep(0.1)
            return in_flight <= 1 and queued == 0 and self.descriptors() <= descriptors

        end = time.monotonic() + PATIENCE
        while not await look():
            assert time.monotonic() < end, f"not settled: {self.descriptors()} descriptors, {descriptors} before"
            await asyncio.sleep(0.05)


async def read_answer(reader):
    """Status and body of one response that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
    return int(lines[0].split()[1]), await reader.readexactly(length)


def wait_for(what, look, check):
    """What `look` returns as soon as that is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        check()
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")
