"""`python tests/offline COMMAND…`: run a command that cannot reach any network, and fail if it tried.

Every Python process of the command blocks itself and says who tried (see `blocked_sockets`). Where the kernel allows it
(Linux, user namespaces), the command also gets a network of its own in which only loopback exists, and the kernel's
count of packets without a route covers native code too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import blocked_sockets

_INSIDE = "--inside-own-network"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def main(arguments: list[str]) -> int:
    """Exit status of the command, or 97 when it succeeded but something in it tried to get out."""
    if not arguments:
        sys.stderr.write("usage: python tests/offline COMMAND [ARGUMENT…]\n")
        return 2
    if arguments[0] == _INSIDE:
        _raise_loopback()
        return _run(arguments[1:], own_network=True)
    if _namespace_allowed():
        os.execvp("unshare", [*_UNSHARE, sys.executable, str(Path(__file__).parent), _INSIDE, *arguments])
    return _run(arguments, own_network=False)


_UNSHARE = ["unshare", "--map-root-user", "--net"]


def _namespace_allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode == 0


def _raise_loopback() -> None:
    """What `ip link set lo up` does, on machines without `ip`: see netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _run(command: list[str], *, own_network: bool) -> int:
    log = Path(os.environ.get(blocked_sockets.LOG_VARIABLE) or Path(tempfile.mkdtemp()) / "attempts.jsonl").absolute()
    log.unlink(missing_ok=True)
    before = _packets_without_route()
    status = subprocess.run(command, env=blocked_sockets.environment(log, os.environ)).returncode
    found, packets = blocked_sockets.attempts(log), _packets_without_route() - before
    counted = f"{packets} packets without a route" if own_network else "not counted by the kernel here"
    sys.stderr.write(f"{len(found)} outbound attempts by Python, {counted}\n")
    for attempt in found[:10]:
        sys.stderr.write(f"  {attempt.call} {attempt.address} by {attempt.process}\n    {attempt.frames[-1]}\n")
    if found:
        sys.stderr.write(f"  in full: {log}\n")
    return status or (97 if found or (own_network and packets) else 0)


def _packets_without_route() -> int:
    """The kernel's count in this network namespace, IPv4 and IPv6; 0 where it keeps none."""
    snmp, snmp6 = Path("/proc/self/net/snmp"), Path("/proc/self/net/snmp6")
    if not snmp.exists():
        return 0
    names, values = [line.split()[1:] for line in snmp.read_text().splitlines() if line.startswith("Ip:")]
    count = int(dict(zip(names, values, strict=True))["OutNoRoutes"])
    six = dict(line.split() for line in snmp6.read_text().splitlines()) if snmp6.exists() else {}
    return count + int(six.get("Ip6OutNoRoutes", 0))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
