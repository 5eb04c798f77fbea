"""How each proxy is configured and started for a row, and the origin."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from machine import LOAD_CORES, PROXY_CORE, connects, cpu_seconds, free_port, resident_kib

TYPE = "type.googleapis.com/"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "envoy.extensions.filters.http.router.v3.Router"
TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
TCP = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

START_DEADLINE = 60


def pinned(cores, command, directory, name):
    """Starts a command on these cores with its output in a file."""
    with open(directory / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            ["taskset", "-c", cores, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )


def wait_for_port(process, port, log):
    deadline = time.monotonic() + START_DEADLINE
    while not connects(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)


class Proxy:
    """One proxy for one round. `kind` is http, h2c, tls or tcp."""

    def __init__(self, binary, directory):
        self.binary, self.directory, self.port = binary, directory, free_port()
        self.process = None

    def start(self, kind, origin_port):
        if kind == "tls":
            for name in ("pem", "crt", "key"):
                shutil.copy(identity() / name, self.directory / name)
        self.launch(self.command(kind, origin_port))
        wait_for_port(self.process, self.port, self.directory / "proxy.log")

    def launch(self, command):
        self.process = pinned(PROXY_CORE, command, self.directory, "proxy")

    def stop(self):
        """Asks it to end, twice, for the first time nuncio lets connections finish."""
        for _ in range(2):
            if not self.process or self.process.poll() is not None:
                return
            self.process.terminate()
            try:
                self.process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                pass
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self):
        return cpu_seconds(self.process.pid)

    def resident_kib(self):
        return resident_kib(self.process.pid)


class EnvoyLike(Proxy):
    """nuncio and Envoy: the same configuration and the same arguments."""

    def command(self, kind, origin_port):
        cluster = static_cluster("origin", origin_port)
        cluster["circuit_breakers"] = {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]}
        if kind == "tcp":
            network = {"name": "tcp", "typed_config": {
                "@type": TYPE + TCP, "stat_prefix": "tcp", "cluster": "origin"}}
        else:
            route = {"match": {"prefix": "/"}, "route": {"cluster": "origin"}}
            network = http_filter([{"name": "all", "domains": ["*"], "routes": [route]}])
        path = self.directory / "bootstrap.json"
        listening = listener(self.port, network)
        if kind == "tls":
            source = lambda name: {"filename": str(self.directory / name)}
            listening["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": TYPE + TLS, "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{"certificate_chain": source("crt"), "private_key": source("key")}]}}}
        path.write_text(json.dumps({"static_resources": {
            "listeners": [listening], "clusters": [cluster]}}))
        return self.with_bootstrap(path)

    def with_bootstrap(self, path):
        return [self.binary, "-c", str(path), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]


@functools.cache
def identity():
    """A directory with a certificate for an ECDSA P-256 key (crt, key, and both in pem)."""
    directory = Path(tempfile.mkdtemp(prefix="nuncio-bench-identity-"))
    atexit.register(shutil.rmtree, directory)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", directory / "key", "-out", directory / "crt", "-days", "30",
         "-subj", "/CN=a.example.com", "-addext", "subjectAltName=DNS:a.example.com"],
        check=True, capture_output=True,
    )
    (directory / "pem").write_bytes((directory / "crt").read_bytes() + (directory / "key").read_bytes())
    return directory


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def static_cluster(name, port):
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}}


def http_filter(virtual_hosts):
    return {"name": "http", "typed_config": {
        "@type": TYPE + HCM, "stat_prefix": "ingress",
        "route_config": {"name": "local", "virtual_hosts": virtual_hosts},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + ROUTER}}]}}


def listener(port, network_filter):
    return {"name": "main", "address": address(port), "filter_chains": [{"filters": [network_filter]}]}


NGINX_HEAD = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log; worker_rlimit_nofile 65536;
{modules}
events {{ worker_connections 32768; }}
"""

NGINX_HTTP = """
http {{
  access_log off; keepalive_requests 1000000000; server_tokens off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=16384 {options};
    {more}
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host;
    }}
  }}
}}
"""

NGINX_TLS = """
    ssl_certificate {directory}/crt; ssl_certificate_key {directory}/key;
    ssl_protocols TLSv1.2 TLSv1.3;
"""

NGINX_STREAM = """
stream {{ server {{ listen 127.0.0.1:{port} backlog=16384; proxy_pass 127.0.0.1:{origin}; }} }}
"""


def nginx_modules():
    """Debian keeps the stream module in a file of its own."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};" if module.exists() else ""


class Nginx(Proxy):
    def command(self, kind, origin_port):
        text = NGINX_HEAD + (NGINX_STREAM if kind == "tcp" else NGINX_HTTP)
        path = self.directory / "nginx.conf"
        path.write_text(text.format(
            directory=self.directory, port=self.port, origin=origin_port,
            modules=nginx_modules() if kind == "tcp" else "",
            options={"h2c": "http2", "tls": "ssl http2"}.get(kind, ""),
            more=NGINX_TLS.format(directory=self.directory) if kind == "tls" else "",
        ))
        return [self.binary, "-c", str(path), "-p", str(self.directory)]


HAPROXY = """
global
  nbthread 1
  maxconn 9900
defaults
  mode {mode}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend main
  bind 127.0.0.1:{port} backlog 16384 {options}
  default_backend origin
backend origin
  server one 127.0.0.1:{origin} pool-max-conn 2048
"""


class HAProxy(Proxy):
    def command(self, kind, origin_port):
        mode = "tcp" if kind == "tcp" else "http"
        options = {"h2c": "proto h2", "tls": f"ssl crt {self.directory}/pem alpn h2,http/1.1"}
        text = HAPROXY.format(
            mode=mode, port=self.port, origin=origin_port, options=options.get(kind, ""))
        if mode == "tcp":
            text = text.replace("  http-reuse always\n", "")
        path = self.directory / "haproxy.cfg"
        path.write_text(text)
        return [self.binary, "-db", "-f", str(path)]


PROXIES = {"nuncio": EnvoyLike, "envoy": EnvoyLike, "nginx": Nginx, "haproxy": HAProxy}

ORIGIN = """
daemon off; master_process off; worker_processes 1; pid {directory}/origin.pid;
error_log {directory}/origin-error.log; worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush on;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=16384;
    location = /large {{ root {directory}; default_type application/octet-stream; }}
    location / {{ return 200 "{body}"; }}
  }}
  server {{ listen 127.0.0.1:{other}; location / {{ return 200 "other"; }} }}
}}
"""


class Origin:
    """nginx with a small fixed answer, 1 MiB at /large, and a second port."""

    def __init__(self, home):
        self.directory = home / "origin"
        self.port, self.other = free_port(), free_port()

    def __enter__(self):
        self.directory.mkdir()
        # A worker without root's rights must reach the file.
        os.chmod(self.directory.parent, 0o755)
        (self.directory / "large").write_bytes(b"x" * (1 << 20))
        path = self.directory / "origin.conf"
        path.write_text(ORIGIN.format(
            directory=self.directory, port=self.port, other=self.other, body="x" * 100))
        command = ["/usr/sbin/nginx", "-c", str(path), "-p", str(self.directory)]
        self.process = pinned(LOAD_CORES, command, self.directory, "origin")
        wait_for_port(self.process, self.port, self.directory / "origin.log")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
