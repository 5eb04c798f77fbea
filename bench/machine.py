"""Facts about the machine and its processes."""

import os
import socket

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE = str(CORES[0])
LOAD_CORES = ",".join(str(core) for core in (CORES[1:] or CORES))
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    """A port below the ephemeral range, so that no connection sits on it."""
    free_port.next += 1
    for port in range(free_port.next, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free_port.next = port
        return port
    raise RuntimeError("no free port")


free_port.next = 9000 + os.getpid() % 2000


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def cpu_seconds(pid):
    """User and system time of all threads of a process."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise RuntimeError("no VmRSS")
