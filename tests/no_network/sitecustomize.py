"""Loaded by every Python process of the tests: a connection to anything but loopback or a local socket is an error."""

import ipaddress
import socket
from typing import Any


class NetworkBlockedError(RuntimeError):
    """A test tried to reach a network."""


def _check(address: Any) -> None:
    if not isinstance(address, tuple):  # a Unix socket's path
        return
    host = str(address[0])
    if host in ("localhost", ""):
        return
    try:
        if ipaddress.ip_address(host.split("%")[0]).is_loopback:
            return
    except ValueError:
        pass
    raise NetworkBlockedError(f"the tests reach no network: connection to {address!r} refused")


class _LoopbackSocket(socket.socket):
    def connect(self, address: Any, /) -> None:
        _check(address)
        super().connect(address)

    def connect_ex(self, address: Any, /) -> int:
        _check(address)
        return super().connect_ex(address)

    def sendto(self, data: Any, *arguments: Any) -> int:
        _check(arguments[-1])
        return super().sendto(data, *arguments)


def _resolve(host: Any, *arguments: Any, _original: Any = socket.getaddrinfo, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "localhost", socket.gethostname()):
        _check((name,))
    return _original(host, *arguments, **options)


socket.socket = _LoopbackSocket  # type: ignore[misc]
socket.getaddrinfo = _resolve
