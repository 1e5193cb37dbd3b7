# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import ipaddress
import socket

import pytest


@pytest.fixture
def connections(monkeypatch):
    """Records every address and host name that a socket connects to or resolves; refuses all but loopback."""
    hosts: list[str] = []
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def check(host) -> None:
        host = host.decode() if isinstance(host, bytes) else host
        hosts.append(host)
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise AssertionError(f"a connection to {host} was attempted")

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])
        return connect(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        check(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    return hosts


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    """Tests must not depend on the caller's environment."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
