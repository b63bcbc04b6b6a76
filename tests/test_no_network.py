import socket
import subprocess
import sys

import pytest


def test_a_connection_beyond_loopback_is_refused_here_and_in_children() -> None:
    with pytest.raises(RuntimeError, match="reach no network"), socket.socket() as probe:
        probe.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="reach no network"):
        socket.getaddrinfo("example.org", 80)
    child = subprocess.run([sys.executable, "-c", "import socket; socket.socket().connect(('192.0.2.1', 80))"], capture_output=True, text=True, check=False)
    assert child.returncode != 0
    assert "reach no network" in child.stderr


def test_loopback_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
