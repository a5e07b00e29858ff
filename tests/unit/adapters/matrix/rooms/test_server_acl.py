"""Which servers a room's access list denies: https://spec.matrix.org/latest/client-server-api/#mroomserver_acl."""

from typing import Any

import pytest

from relay.adapters.matrix.rooms.server_acl import is_denied


@pytest.mark.parametrize(
    ("content", "denied"),
    [
        ({"allow": ["*"]}, False),
        ({"allow": ["*"], "deny": ["evil.example", "*.evil.example"]}, False),
        ({"allow": ["*"], "deny": ["Relay.Example"]}, True),
        ({"allow": ["*"], "deny": ["*.exampl?"]}, True),
        ({"allow": ["relay.example"]}, False),
        ({"allow": ["relay.*"], "deny": ["relay.example"]}, True),
        ({"allow": ["relay.example:8448"]}, True),  # ports are no part of it
        # Without a list nobody is allowed: it was redacted, say.
        ({}, True),
        ({"allow": "relay.example", "deny": {}}, True),
        ({"allow": ["*", 7, None], "deny": [["relay.example"]]}, False),
        ({"allow": [f"*{'é' * 5}*"]}, False),  # not known
        ({"allow": ["*"], "allow_ip_literals": False}, False),
    ],
)
def test_a_name(content: dict[str, Any], denied: bool) -> None:
    assert is_denied(content, "relay.example:8448") is denied


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.1:8448", "[2001:db8::1]", "[2001:db8::1]:8448"])
@pytest.mark.parametrize("allowed", [True, False])
def test_an_address(server: str, allowed: bool) -> None:
    assert is_denied({"allow": ["*"], "allow_ip_literals": allowed}, server) is not allowed
