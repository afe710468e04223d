"""Several processes of one machine listen on the loopback interface alone, and strangers change nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.processes import NO_TORCHRUN, descendants, finish, launch, wait_for_metrics

pytestmark = pytest.mark.slow
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENS = "0A"


def sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets of a process."""
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = str(link.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """Address (as the kernel writes it) and port of every listening TCP socket of the processes."""
    own = {inode for pid in pids for inode in sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and fields[9] in own:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def disturb(port: int) -> None:
    """Be a stranger: a request of another protocol, and a connection that says nothing."""
    for message in (b"GET / HTTP/1.0\r\n\r\n" + bytes(range(128, 256)), b""):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
            stranger.sendall(message)


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("torchrun", marks=NO_TORCHRUN),
        pytest.param("accelerate", marks=[NO_TORCHRUN, pytest.mark.extras]),
        pytest.param("ray", marks=pytest.mark.extras),
    ],
)
def test_ports(tmp_path: Path, launcher: str) -> None:
    options = ["--launcher", launcher, "--nproc", "2", "--storage", str(tmp_path / "ray")]
    module = ["tests.training.toy", str(tmp_path / "exp"), "toy.pause=0.2", "train.epochs=6"]
    process = launch(options, module)
    wait_for_metrics(tmp_path / "exp")
    found = listening([process.pid, *descendants(process.pid)])
    assert found  # gloo has one for each process
    assert {address for address, _ in found} <= LOOPBACK
    for _, port in found:
        disturb(port)
    assert finish(process)[0] == 0
    assert (tmp_path / "exp/training.json").exists()
