"""What docstrings and comments name of relay is there: a module, or something that a module defines."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = "adapters|cli|config|core|demo|domain|media|sandbox|store|web"
DOTTED = re.compile(rf"(?<![\w./])(?:relay\.)?((?:{PARTS})(?:\.[A-Za-z_]\w*)+)(?![\w(/])")
PATHS = re.compile(rf"(?<![\w.-])(?:relay/)?((?:{PARTS})/[\w/]+(?:\.py)?)(?![\w.])")


def names(text: str) -> list[str]:
    """What a text names."""
    return [*DOTTED.findall(text), *PATHS.findall(text)]


def prose(path: Path) -> Iterator[str]:
    """The comments of a file that name something, and its strings that stand alone."""
    text = path.read_text(encoding="utf-8")
    if any(names(line.partition("#")[2]) for line in text.splitlines()):
        tokens = tokenize.generate_tokens(StringIO(text).readline)
        yield from (token.string for token in tokens if token.type == tokenize.COMMENT)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@cache
def is_there(name: str) -> bool:
    """Whether `core.ports.Cursor`, `core/ports.py`, `store/sqlite` … exist."""
    base = ROOT / "relay"
    parts = re.split(r"[./]", name.removesuffix(".py"))
    for position in range(len(parts), 0, -1):
        where = base.joinpath(*parts[:position])
        rest = parts[position:]
        if where.with_suffix(".py").is_file():
            return not rest or re.search(rf"\b{re.escape(rest[0])}\b", where.with_suffix(".py").read_text()) is not None
        if where.is_dir():
            return not rest
    return False


def test_what_is_looked_for_is_found() -> None:
    found = names("see `core.ports.Cursor` and relay.store.codec") + names("`core/delivery/old.py`")
    assert [(name, is_there(name)) for name in found] == [
        ("core.ports.Cursor", True),
        ("store.codec", True),
        ("core/delivery/old.py", False),
    ]


@pytest.mark.parametrize("folder", ["relay", "tests", "migrations"])
def test_every_module_that_is_named_exists(folder: str) -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in prose(path)
        for name in names(text)
        if not is_there(name)
    ]
    assert missing == []
