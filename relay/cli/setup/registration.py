"""`relay registration`: the file that tells a homeserver of the relay's ghosts."""

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relay.cli.commands import ConfigOption, invocation_of

if TYPE_CHECKING:
    from relay.config.settings import MatrixSettings

_VARIABLE = "RELAY_MATRIX__APPSERVICE__AS_TOKEN"
_MADE = """\
There was no as_token yet, so one was made: the file above has it. Copy it into relay.toml:

    [matrix.appservice]
    as_token = "…"          # or as_token_file = "/run/secrets/matrix_as_token"
"""
_WHERE = """\
Give this file to the homeserver {server}, and restart the relay when that is done:

  Synapse      save it where Synapse may read it, for example /etc/matrix-synapse/relay.yaml, add that path to
               app_service_config_files in homeserver.yaml, and restart Synapse
  continuwuity, tuwunel
               in the admin room: !admin appservices register, and the file between lines of ``` in the same message
  Dendrite     save it, add its path to config_files under app_service_api in dendrite.yaml, and restart Dendrite;
               it forgets what was sent when it restarts, so that a message may be doubled then

It holds a secret: nobody but the homeserver and the relay may read it. The account {user} stays an ordinary one.
"""


def registration(context: typer.Context, config: ConfigOption = None) -> None:
    """Print the appservice registration for ghosts, and say where it goes."""
    invocation = invocation_of(context)
    new = _token_for_none(config or invocation.config)
    settings = invocation.load(config, environ=os.environ | new).matrix
    typer.echo(registration_file(settings), nl=False)
    words = _WHERE.format(server=settings.user_id.partition(":")[2], user=settings.user_id)
    typer.echo(f"{_MADE}\n{words}" if new else words, err=True, nl=False)


def registration_file(settings: "MatrixSettings") -> str:
    """The registration as YAML (https://spec.matrix.org/latest/application-service-api/#registration).

    All of it follows from the settings, so that it is the same each time. Nothing is pushed to the relay (`url`), which
    reads with its own account; so nobody needs `hs_token`. `sender_localpart` is an account that the homeserver makes
    for the registration, and may not be one that syncs: a name that nobody uses.
    """
    appservice = settings.appservice
    if appservice is None:
        raise ValueError("there is no [matrix.appservice]")
    token = appservice.as_token.get_secret_value()
    server = re.escape(settings.user_id.partition(":")[2])
    # Exactly the names of our ghosts: a prefix, and a number.
    namespace = f"@{re.escape(appservice.prefix)}[0-9]+:{server}"
    lines = {
        "id": appservice.id,
        "url": None,
        "as_token": token,
        "hs_token": _derived("hs_token", token),
        "sender_localpart": f"_relay_{_derived('sender_localpart', token)[:16]}x",
        "rate_limited": False,
    }
    # JSON values are YAML values.
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())
    users = f"  users:\n    - exclusive: true\n      regex: {json.dumps(namespace)}\n"
    return f"# Made by `relay registration`.\n{text}namespaces:\n{users}  aliases: []\n  rooms: []\n"


def _derived(what: str, token: str) -> str:
    return hashlib.sha256(f"{what} {token}".encode()).hexdigest()


def _token_for_none(config: Path | None) -> dict[str, str]:
    """A new token in an environment variable, if the configuration has none."""
    from relay.config.settings import Settings, locate
    from relay.config.sources import gather

    values: Any = gather(locate(config, os.environ), os.environ, Settings).values
    for key in ("matrix", "appservice", "as_token"):
        if not isinstance(values, dict):
            return {}  # `load` says what is wrong
        values = values.get(key, {})
    return {} if values else {_VARIABLE: secrets.token_urlsafe(32)}
