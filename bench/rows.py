"""The rows that measure CPU under load. A new one is one more entry."""

import re
import subprocess
from dataclasses import dataclass, field

from machine import LOAD_CORES


@dataclass
class Load:
    """One workload through one proxy."""

    name: str
    title: str
    #: http, h2c or tcp: what the proxy listens for.
    kind: str
    #: The command line of the load generator, without the URL.
    generator: list
    path: str = "/"
    rounds: int = 0
    compared: tuple = ("µs CPU/request",)
    left_out: tuple = field(default_factory=tuple)

    def supports(self, proxy):
        return proxy not in self.left_out

    def measure(self, proxy, origin, seconds):
        proxy.start(self.kind, origin.port)
        self.load(proxy, 1)
        before = proxy.cpu_seconds()
        requests = self.load(proxy, seconds)
        spent = proxy.cpu_seconds() - before
        return {
            "µs CPU/request": spent / requests * 1e6,
            "requests/s": requests / seconds,
        }

    def load(self, proxy, seconds):
        """Runs the generator, and returns how many requests were answered."""
        tool, *options = self.generator
        duration = [f"-d{seconds}s"] if tool == "wrk" else ["-D", str(seconds)]
        command = [tool, *options, *duration, f"http://127.0.0.1:{proxy.port}{self.path}"]
        run = subprocess.run(
            ["taskset", "-c", LOAD_CORES, *command],
            capture_output=True, text=True, timeout=seconds + 60, check=False,
        )
        text = run.stdout + run.stderr
        return (wrk if tool == "wrk" else h2load)(text)


def wrk(text):
    found = re.search(r"(\d+) requests in", text)
    if not found or int(found[1]) == 0 or "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"wrk says:\n{text}")
    return int(found[1])


def h2load(text):
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", text)
    if not found or int(found[1]) == 0 or int(found[2]) or int(found[3]):
        raise RuntimeError(f"h2load says:\n{text}")
    return int(found[1])


ROWS = [
    Load("keep-alive", "HTTP/1 keep-alive, 64 connections, small response", "http",
         ["wrk", "-t1", "-c64"]),
    Load("many", "HTTP/1 keep-alive, 1,000 connections, small response", "http",
         ["wrk", "-t1", "-c1000"]),
    Load("new-connection", "HTTP/1, a new connection for each request", "http",
         ["wrk", "-t1", "-c64", "-H", "Connection: close"]),
    Load("large", "HTTP/1 keep-alive, 16 connections, 1 MiB response", "http",
         ["wrk", "-t1", "-c16"], path="/large"),
    Load("h2c", "HTTP/2 in clear, 16 connections of 8 streams, small response", "h2c",
         ["h2load", "-t1", "-c16", "-m8"]),
    Load("tcp", "TCP proxy, 64 connections, small response", "tcp",
         ["wrk", "-t1", "-c64"]),
    Load("tcp-large", "TCP proxy, 16 connections, 1 MiB response", "tcp",
         ["wrk", "-t1", "-c16"], path="/large"),
]
