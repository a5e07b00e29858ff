"""The fields of the platforms' documents, and what becomes of each: `tests/payloads/fields.toml`.

A section is an object of the documentation; `_source` is where it is documented and `_path` where it stands in the
input of a payload file (`*`: each of a list; `**`: each object at any depth; `a|b`: either). Each field is

- `shown: <file>`: it changes what the other side is told, as that file in tests/payloads shows;
- `read: <why>`: it is needed, and nobody sees it on the other side;
- `left out: <why>`.
"""

import copy
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from relay.domain.ids import Platform
from relay.domain.jsontext import Json
from tests.support.payloads import FOLDER, Case, play


@dataclass(frozen=True, slots=True)
class Fields:
    """One section."""

    platform: Platform
    name: str
    source: str
    path: str
    fates: dict[str, str]


def sections() -> list[Fields]:
    """All of them."""
    table = tomllib.loads((FOLDER / "fields.toml").read_text(encoding="utf-8"))
    return [
        Fields(
            Platform(platform),
            name,
            section["_source"],
            section["_path"],
            {key: fate for key, fate in section.items() if not key.startswith("_")},
        )
        for platform, found in table.items()
        for name, section in found.items()
    ]


async def matters(case: Case, platform: Platform, path: str, field: str) -> bool | None:
    """Whether the field changes what the other side is told; None where the input does not have it."""
    changed = copy.deepcopy(case.input)
    holders = [one for one in _at(changed, path.split("/") if path else []) if field in one]
    if not holders:
        return None
    for holder in holders:
        del holder[field]
    try:
        return bool(await play(replace(case, input=changed), platform) != case.expected)
    except (LookupError, TypeError, ValueError):
        # Without it, nothing comes of the event at all.
        return True


def _at(value: Any, path: list[str]) -> Iterator[Json]:
    if not path:
        if isinstance(value, dict):
            yield value
        return
    step, *rest = path
    if step == "*":
        for item in value if isinstance(value, list) else []:
            yield from _at(item, rest)
    elif step == "**":
        yield from _at(value, rest)
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else []:
            yield from _at(item, path)
    elif isinstance(value, dict):
        for key in step.split("|"):
            if key in value:
                yield from _at(value[key], rest)
