"""What one of the Python versions that we promise gets wrong, and how we get by without it."""

import ast
import asyncio
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from relay.adapters.discord import markup
from relay.domain.text import nodes as n
from relay.errors import FatalError, RelayError, StoreError, ungrouped

ROOT = Path(__file__).parents[2]
_SINGLE = {_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN, _constants.CATEGORY}


def sources(hint: str) -> Iterator[tuple[str, ast.AST]]:
    """Every node of our own code, with the place where it stands; only of files in which `hint` matches."""
    for folder in ("relay", "tests", "migrations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if re.search(hint, text := path.read_text(encoding="utf-8")):
                for node in ast.walk(ast.parse(text)):
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def pattern_of(node: ast.AST) -> str | None:
    """The text that may be a regular expression; what an f-string puts in counts as a letter."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in values)
        case _:
            return None


def repeats_a_group_possessively(pattern: str) -> bool:
    """Whether `pattern` holds `(…)*+`, `(…)++`, `(…)?+` or `(…){n}+`, or one of them after a back reference."""
    try:
        parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return any(
        operator is _constants.POSSESSIVE_REPEAT and (len(value[2]) != 1 or value[2][0][0] not in _SINGLE)
        for operator, value in steps(parsed)
    )


def steps(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every step of a parsed pattern, however deep."""
    if isinstance(value, _parser.SubPattern):
        for operator, argument in value.data:
            yield operator, argument
            yield from steps(argument)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from steps(part)


@pytest.mark.parametrize(
    "pattern", ["(?:ab)*+", "(a|b)++", "x(?:a++b)?+", "(?:ab){2,}+", r"(a)\1*+", "((?:a|(?:bc)*+))"]
)
def test_the_search_for_possessive_groups_finds_them(pattern: str) -> None:
    assert repeats_a_group_possessively(pattern)


@pytest.mark.parametrize("pattern", ["a*+", "[ab]++", r"\s*+", "(?>(?:ab)*)", "(?:ab)*", "c++", "c)++"])
def test_the_search_for_possessive_groups_finds_nothing_else(pattern: str) -> None:
    assert not repeats_a_group_possessively(pattern)


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Before 3.11.5 what such a group matched may be cut short (gh-106052): write `(?>(?:…)*)`."""
    nodes = sources(r"[*+?}]\+")
    patterns = ((place, pattern_of(node)) for place, node in nodes if "test_interpreters" not in place)
    assert [place for place, text in patterns if text and "+" in text and repeats_a_group_possessively(text)] == []


def test_nothing_is_raised_inside_except_star() -> None:
    """Before 3.11.4 that wraps the error in a group of its own (gh-103590): use `ungrouped`."""
    handlers = (
        (place, handler)
        for place, node in sources(r"except\*")
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
    )
    assert [
        place for place, handler in handlers if any(isinstance(part, ast.Raise) for part in ast.walk(handler))
    ] == []


def test_bold_words_before_a_spoiler() -> None:
    tree = markup.parse("**b** ||s||", names=markup.NameLookup())
    assert tree == n.RichText((n.Paragraph((n.Strong((n.Text("b"),)), n.Text(" "), n.Spoiler((n.Text("s"),)))),))


async def fail(error: Exception) -> None:
    raise error


async def fail_together(*errors: Exception) -> None:
    """Every error in a task of its own, in a group inside a group."""
    async with asyncio.TaskGroup() as outer:
        outer.create_task(asyncio.Event().wait())
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))


async def test_the_one_error_of_several_tasks() -> None:
    with pytest.raises(FatalError, match="the token"), ungrouped(RelayError):
        await fail_together(FatalError("the token", "make a new one"), FatalError("the token", "again"))


async def test_an_error_that_is_a_bug_is_not_hidden_behind_one_that_is_not() -> None:
    with pytest.raises(BaseExceptionGroup) as raised, ungrouped(RelayError):
        await fail_together(FatalError("the token", "make a new one"), KeyError("a bug"))
    assert raised.value.subgroup(FatalError)
    assert raised.value.subgroup(KeyError)


def test_an_error_in_no_group_passes() -> None:
    with pytest.raises(FatalError, match="alone"), ungrouped(StoreError):
        raise FatalError("alone", "look")


def test_each_connection_to_sqlite_is_closed() -> None:
    """Since 3.13 a connection that is not closed is a warning, and `with connection:` only ends its transaction."""
    nodes = sources(r"with .*sqlite3\.connect")
    withs = ((place, node) for place, node in nodes if isinstance(node, ast.With | ast.AsyncWith))
    opened = ((place, ast.unparse(item.context_expr)) for place, node in withs for item in node.items)
    assert [place for place, text in opened if text.startswith("sqlite3.connect(")] == []


def test_what_is_installed_is_the_same_on_each_python() -> None:
    """What a newer one goes without is missed where nobody has tried it: on 3.14, the demo's Discord could not talk."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = (*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra))
    assert [one for one in needed if "python" in one.partition(";")[2]] == []
