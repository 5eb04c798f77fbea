"""The rows that measure CPU under load, and memory without. A new one is one more entry."""

import atexit
import functools
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from machine import LOAD_CORES


@dataclass
class Load:
    """One workload through one proxy."""

    name: str
    title: str
    #: http, h2c, tls or tcp: what the proxy listens for.
    kind: str
    #: The command line of the load generator, without the URL.
    generator: list
    path: str = "/"
    #: Bytes of a request's body; h2load sends it.
    body: int = 0
    rounds: int = 0
    unit: str = "request"
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
            f"µs CPU/{self.unit}": spent / requests * 1e6,
            f"{self.unit}s/s": requests / seconds,
        }

    def load(self, proxy, seconds):
        """Runs the generator, and returns how many requests were answered."""
        tool, *options = self.generator
        if self.body:
            options += ["-d", str(zeros(self.body))]
        duration = [f"-d{seconds}s"] if tool == "wrk" else ["-D", str(seconds)]
        scheme = "https" if self.kind == "tls" else "http"
        command = [tool, *options, *duration, f"{scheme}://127.0.0.1:{proxy.port}{self.path}"]
        run = subprocess.run(
            ["taskset", "-c", LOAD_CORES, *command],
            capture_output=True, text=True, timeout=seconds + 60, check=False,
        )
        text = run.stdout + run.stderr
        return (wrk if tool == "wrk" else h2load)(text)


@dataclass
class Handshake(Load):
    """Connections that end after their handshake, and resume no session."""

    unit: str = "handshake"
    compared: tuple = ("µs CPU/handshake",)

    def load(self, proxy, seconds):
        """Runs the generator, and returns how many handshakes were done."""
        run = subprocess.run(
            ["taskset", "-c", LOAD_CORES, *self.generator, "-time", str(seconds),
             "-connect", f"127.0.0.1:{proxy.port}"],
            capture_output=True, text=True, timeout=seconds + 60, check=False,
        )
        found = re.search(r"(\d+) connections in \d+ real seconds", run.stdout)
        if not found or int(found[1]) == 0:
            raise RuntimeError(f"s_time says:\n{run.stdout}{run.stderr}")
        return int(found[1])


@dataclass
class Idle:
    """The memory that connections take which do nothing, after one request each."""

    name: str
    title: str
    kind: str
    #: Below what HAProxy allows with the usual limit of descriptors.
    connections: int = 9_500
    rounds: int = 1
    compared: tuple = ("KiB/connection",)

    def supports(self, _proxy):
        return True

    def measure(self, proxy, origin, _seconds):
        proxy.start(self.kind, origin.port)
        connect = self.tls if self.kind == "tls" else self.clear
        # What the first ones bring about is not theirs.
        held = [connect(proxy.port) for _ in range(100)]
        before = proxy.resident_kib()
        held += [connect(proxy.port) for _ in range(self.connections)]
        spent = proxy.resident_kib() - before
        for connection in held:
            connection.close()
        return {"KiB/connection": spent / self.connections}

    def clear(self, port):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n")
        if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("not answered with 200")
        return connection

    def tls(self, port):
        clear = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection = CLIENT.wrap_socket(clear, server_hostname="a.example.com")
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n")
        if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
            raise RuntimeError("not answered with 200")
        return connection


@functools.cache
def zeros(length):
    """A file of so many bytes."""
    directory = Path(tempfile.mkdtemp(prefix="nuncio-bench-body-"))
    atexit.register(shutil.rmtree, directory)
    (directory / "zeros").write_bytes(bytes(length))
    return directory / "zeros"


#: Takes any certificate.
CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT.check_hostname = False
CLIENT.verify_mode = ssl.CERT_NONE


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
    Load("upload", "HTTP/1 keep-alive, 16 connections, 64 KiB request", "http",
         ["h2load", "--h1", "-t1", "-c16"], body=64 << 10),
    Load("h2c", "HTTP/2 in clear, 16 connections of 8 streams, small response", "h2c",
         ["h2load", "-t1", "-c16", "-m8"]),
    Load("h2c-upload", "HTTP/2 in clear, 16 connections of 8 streams, 64 KiB request", "h2c",
         ["h2load", "-t1", "-c16", "-m8"], body=64 << 10),
    Load("tls", "TLS, HTTP/1 keep-alive, 64 connections, small response", "tls",
         ["wrk", "-t1", "-c64"]),
    Load("tls-h2", "TLS, HTTP/2, 16 connections of 8 streams, small response", "tls",
         ["h2load", "-t1", "-c16", "-m8"]),
    Load("tls-resumption", "TLS, HTTP/1, a new connection and a session resumed for each request", "tls",
         ["wrk", "-t1", "-c16", "-H", "Connection: close"]),
    Handshake("tls-handshake", "TLS, full handshakes with ECDSA P-256, one after the other", "tls",
              ["openssl", "s_time", "-new"]),
    Load("tls-large", "TLS, HTTP/1 keep-alive, 16 connections, 1 MiB response", "tls",
         ["wrk", "-t1", "-c16"], path="/large"),
    Idle("tls-idle", "TLS, 9,500 idle connections", "tls"),
    Load("tcp", "TCP proxy, 64 connections, small response", "tcp",
         ["wrk", "-t1", "-c64"]),
    Load("tcp-large", "TCP proxy, 16 connections, 1 MiB response", "tcp",
         ["wrk", "-t1", "-c16"], path="/large"),
]
