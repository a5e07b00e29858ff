"""A homeserver that knows the relay's registration, and a stack whose people have ghosts."""

from pathlib import Path

from relay.cli.setup.registration import registration_file
from relay.config.mistakes import validated
from relay.config.settings import MatrixSettings
from relay.demo.matrix_client import Shown
from tests.support.homeserver import ForkedHomeserver
from tests.support.stack import FullStack

AS_TOKEN = "as_token_of_the_tests"
APPSERVICE = f'[matrix.appservice]\nas_token = "{AS_TOKEN}"\n'


SECOND_PREFIX = "_second_"
SECOND_APPSERVICE = f'[matrix.appservice]\nas_token = "second_token"\nid = "second"\nprefix = "{SECOND_PREFIX}"\n'
"""Of another relay on the same homeserver."""


class GhostHomeserver(ForkedHomeserver):
    """A homeserver with two registrations. The first can be taken away and given back while it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._registration, second = folder / "registration.yaml", folder / "second.yaml"
        super().__init__(settings={"app_service_config_files": [str(self._registration), str(second)]})
        self.know_registration()
        appservice = {"as_token": "second_token", "id": "second", "prefix": SECOND_PREFIX}
        second.write_text(registration_file(_settings("localhost", appservice)))

    def know_registration(self, known: bool = True, server_name: str = "localhost") -> None:
        """Whether it knows the relay's registration from its next start on; else it has one of somebody else."""
        appservice = {"as_token": AS_TOKEN} if known else {"as_token": "another", "prefix": "_other_"}
        self._registration.write_text(registration_file(_settings(server_name, appservice)))


def _settings(server_name: str, appservice: dict[str, str]) -> MatrixSettings:
    return validated(
        MatrixSettings,
        {
            "homeserver_url": "http://localhost",
            "user_id": f"@relay:{server_name}",
            "access_token": "x",
            "appservice": appservice,
        },
    )


def ghost(place: FullStack, who: str = "Ada") -> str:
    """The ID of somebody's ghost."""
    return f"@_discord_{place.people[who]}:{place.homeserver.server_name}"


def with_ghosts(place: FullStack, more: str = "") -> None:
    """Write a configuration with ghosts."""
    place.write_config(extra=APPSERVICE + more)


async def shown(place: FullStack, pair: str, *lines: str) -> list[Shown]:
    """What the room shows once it has exactly these lines."""
    await place.until_matrix(pair, lambda words: words == list(lines))
    return await place.on_matrix(pair)
