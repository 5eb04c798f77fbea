"""The row that measures a large configuration in two JSON files."""

import http.client
import json
import os
import time
from dataclasses import dataclass

from proxies import TYPE, http_filter, listener, static_cluster

COUNT = 10_000
DEADLINE = 120
POLL = 0.001
LISTENER = TYPE + "envoy.config.listener.v3.Listener"
CLUSTER = TYPE + "envoy.config.cluster.v3.Cluster"


@dataclass
class Scale:
    name: str
    title: str
    rounds: int = 3
    compared: tuple = ("ms to first response", "MiB resident", "ms cluster", "ms route")

    def supports(self, proxy):
        """The others do not read Envoy's files."""
        return proxy in ("nuncio", "envoy")

    def measure(self, proxy, origin, _seconds):
        files = Files(proxy, origin)
        files.write("cds.json", files.clusters())
        files.write("lds.json", files.listeners())
        bootstrap = proxy.directory / "bootstrap.json"
        source = lambda name: {"path_config_source": {"path": str(proxy.directory / name)}}
        bootstrap.write_text(json.dumps({
            "node": {"id": "bench", "cluster": "bench"},
            "dynamic_resources": {"lds_config": source("lds.json"), "cds_config": source("cds.json")},
        }))
        started = time.monotonic()
        proxy.launch(proxy.with_bootstrap(bootstrap))
        first = wait_for(proxy, lambda body: body is not None, started)
        resident = proxy.resident_kib() / 1024

        last = COUNT - 1
        cluster = files.move("cds.json", files.clusters({last: origin.other}))
        cluster_time = wait_for(proxy, lambda body: body == b"other", cluster)
        route = files.move("lds.json", files.listeners({last: 0}))
        route_time = wait_for(proxy, lambda body: body and body != b"other", route)
        return {
            "ms to first response": first * 1000,
            "MiB resident": resident,
            "ms cluster": cluster_time * 1000,
            "ms route": route_time * 1000,
        }


class Files:
    """The two files of one proxy; `changes` maps a number to its new target."""

    def __init__(self, proxy, origin):
        self.proxy, self.origin = proxy, origin

    def clusters(self, changes=None):
        changes = changes or {}
        return {"resources": [
            {"@type": CLUSTER, **static_cluster(f"cluster-{number}", changes.get(number, self.origin.port))}
            for number in range(COUNT)
        ]}

    def listeners(self, changes=None):
        changes = changes or {}
        hosts = [{
            "name": f"host-{number}", "domains": [f"host-{number}.example.com"],
            "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": f"cluster-{changes.get(number, number)}"},
            }],
        } for number in range(COUNT)]
        return {"resources": [{"@type": LISTENER, **listener(self.proxy.port, http_filter(hosts))}]}

    def write(self, name, content):
        (self.proxy.directory / name).write_text(json.dumps(content))

    def move(self, name, content):
        """Moves new content into place, and returns when."""
        staging = self.proxy.directory / "staging"
        staging.mkdir(exist_ok=True)
        (staging / name).write_text(json.dumps(content))
        moved = time.monotonic()
        os.rename(staging / name, self.proxy.directory / name)
        return moved


def wait_for(proxy, accept, since):
    """Seconds from `since` until the last host's answer is accepted."""
    while time.monotonic() - since < DEADLINE:
        if proxy.process.poll() is not None:
            raise RuntimeError((proxy.directory / "proxy.log").read_text(errors="replace")[-2000:])
        if accept(ask(proxy.port)):
            return time.monotonic() - since
        time.sleep(POLL)
    raise RuntimeError("nothing changed in time")


def ask(port):
    """The body of a 200 from the last host, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Host": f"host-{COUNT - 1}.example.com"})
        response = connection.getresponse()
        body = response.read()
        return body if response.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


SCALE_ROWS = [Scale("scale", f"{COUNT:,} clusters and {COUNT:,} virtual hosts from two JSON files")]
