"""README's table of what crosses cannot promise more than is shown, nor leave out what is."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import discord
import pytest
import typer
from typer.core import TyperGroup

from relay import errors
from relay.cli import main
from relay.cli.commands import application
from relay.config.loading import load
from relay.config.settings import PairSettings, Section, keys_of
from relay.core.status.report import Report
from relay.domain.events import Feature
from relay.domain.ids import Platform
from relay.web.metrics import registry, tenants_registry
from tests.support.payloads import cases

ROOT = Path(__file__).parents[2]
DIRECTIONS = {"to_matrix": Platform.DISCORD, "to_discord": Platform.MATRIX}
"""Each direction and the platform that it starts on, in the order of the table's columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `cells` by direction; `payloads` are the beginnings of names of files."""

    what: str
    cells: dict[str, str]
    payloads: frozenset[str]

    @property
    def directions(self) -> list[str]:
        """Those in which there is anything to tell."""
        return [direction for direction, cell in self.cells.items() if cell != "–"]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def lines_of(table: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


def payloads() -> dict[str, frozenset[str]]:
    """The beginnings of names that belong to a row; also of what stands in no row, because it says nothing."""
    listed = lines_of((ROOT / "tests" / "payloads" / "README.md").read_text(encoding="utf-8"))
    return {what: frozenset(re.findall(r"`([^`]+)`", names)) for what, names in listed}


def table() -> list[Row]:
    listed = payloads()
    rows = lines_of(readme().partition("## What crosses\n")[2].partition("\n\nEach row")[0])
    return [Row(what, dict(zip(DIRECTIONS, cells, strict=True)), listed[what]) for what, *cells in rows]


def promises() -> Iterator[tuple[str, str, str]]:
    """Each row and direction that a test through the real daemon says it shows, and that test."""
    for path in sorted((ROOT / "tests" / "e2e").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.crosses":
                    what, *directions = [str(ast.literal_eval(argument)) for argument in mark.args]
                    yield from ((what, direction, f"{path.name}::{node.name}") for direction in directions)


def test_each_row_is_shown_by_payloads_that_start_where_it_says() -> None:
    names = {direction: [case.name for case in cases(platform)] for direction, platform in DIRECTIONS.items()}
    missing = [
        (row.what, direction)
        for row in table()
        for direction in row.directions
        if not any(name.startswith(tuple(row.payloads)) for name in names[direction])
    ]
    assert missing == []


def test_every_payload_belongs_to_a_row_and_each_name_to_a_payload() -> None:
    listed = payloads()
    prefixes = frozenset[str]().union(*listed.values())
    files = {case.name for platform in DIRECTIONS.values() for case in cases(platform)}
    assert [what for what, names in listed.items() if not names] == []
    assert listed.keys() - {row.what for row in table()} == {"what says nothing by itself"}
    assert [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in files)] == []
    assert [name for name in files if not name.startswith(tuple(prefixes))] == []


def test_each_row_is_shown_from_end_to_end_in_each_direction() -> None:
    shown = list(promises())
    missing = [
        (row.what, direction)
        for row in table()
        for direction in row.directions
        if not any(row.what.startswith(what) and direction == way for what, way, _ in shown)
    ]
    assert missing == []


def test_each_test_from_end_to_end_names_one_row_and_a_direction_of_it() -> None:
    rows = table()
    for what, direction, test in promises():
        found = [row for row in rows if row.what.startswith(what)]
        assert len(found) == 1, (test, what, [row.what for row in found])
        assert direction in found[0].directions, (test, what, direction)


def features() -> Iterator[str]:
    """Every word under which the program counts something as dropped."""
    for path in sorted((ROOT / "relay").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found: list[ast.expr | None] = []
            match node:
                case ast.Call(func=ast.Name(id="FeatureUsed" | "Dropped"), args=[*arguments]):
                    found = [argument for argument in arguments[:2] if not isinstance(argument, ast.JoinedStr)]
                case ast.Call(func=ast.Name(id="GatewayEvent"), args=[ast.Constant(value="feature"), *_, word]):
                    found = [word]
                case ast.Call(func=ast.Attribute(attr="dropped"), args=[_, word, *_]):
                    found = [word]
                case ast.Call(
                    func=ast.Attribute(attr="append", value=ast.Attribute(attr="dropped")),
                    args=[ast.Tuple(elts=[_, word])],
                ):
                    found = [word]
                case ast.AnnAssign(target=ast.Name(id="_FEATURES"), value=ast.Dict(values=values)):
                    found = list(values)
                case ast.FunctionDef(name="_feature" | "_left_out"):
                    # `_FEATURES.get(kind, "unknown")`; `None if event.content else "empty"`
                    returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
                    found = [each for value in returned for each in ast.walk(value) if isinstance(each, ast.expr)]
            yield from (
                word.value
                for word in found
                if isinstance(word, ast.Constant) and isinstance(word.value, str) and word.value.isalpha()
            )


def test_every_feature_that_is_counted_is_named_and_no_other() -> None:
    named = readme().partition("A feature is one of\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", named)) == set(get_args(Feature)) == set(features())


def test_its_commands_need_only_python_and_leave_nothing_in_git() -> None:
    """Debian and Homebrew refuse `pip install` outside a virtual environment (PEP 668), so uv gets one of its own."""
    blocks = re.findall(r"```sh\n(.*?)```", readme(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    clone, demo, *setting_up, suite = lines
    # They are on the PATH, so that what the relay says ("write `relay status`") can be typed.
    assert any('export PATH="$HOME/.relay/bin:$PATH"' in line for line in setting_up)
    assert [line for line in setting_up if line.startswith("relay ")] == ["relay init", "relay run"]
    assert clone.startswith("git clone ")
    assert demo.endswith(" && .uv/bin/uv run relay demo")
    assert suite.endswith(" && .uv/bin/uv run pytest -n auto")
    assert demo.rpartition(" && ")[0] == suite.rpartition(" && ")[0]
    assert ".uv/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert re.search(r"(?<!bin/)pip install", readme()) is None


def test_the_invitation_asks_for_what_is_named_beside_it() -> None:
    _, _, after = readme().partition("permissions=")
    number, named = after.partition("&")[0], after.partition("It asks for ")[2].partition("*Copy Channel")[0]
    wanted = {name.casefold().replace(" ", "_") for name in re.findall(r"\*([^*(]+)\*", named.replace("\n", " "))}
    # discord.py's old name of it
    aliases = {"view_channels": "read_messages"}
    asked = {name for name, allowed in discord.Permissions(int(number)) if allowed}
    assert {aliases.get(name, name) for name in wanted} == asked


def test_its_relay_toml_is_one(tmp_path: Path) -> None:
    text = readme().partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "relay.toml"
    path.write_text(text.replace("…", "x"), encoding="utf-8")
    (pair,) = load(path, {}).declared_pairs()
    assert pair.name == "help"


def test_it_names_every_command_and_no_other() -> None:
    part = readme().partition("| command | does |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `relay ([a-z]+)([^|]*)\|", part, flags=re.MULTILINE))
    root = typer.main.get_command(application())
    assert isinstance(root, TyperGroup)
    assert rows.keys() == root.commands.keys()
    for name, command in root.commands.items():
        if isinstance(command, TyperGroup):
            assert command.commands.keys() == set(re.findall(r"\b[a-z]+\b", rows[name].partition("--")[0])), name


def every_command() -> Iterator[tuple[str, Any]]:
    """Each command with its name, those inside groups too."""
    root = typer.main.get_command(application())
    waiting = [("relay", root)]
    while waiting:
        name, command = waiting.pop()
        yield name, command
        if isinstance(command, TyperGroup):
            waiting += [(f"{name} {sub}", inner) for sub, inner in command.commands.items()]


def test_each_command_and_each_option_says_what_it_does() -> None:
    for name, command in every_command():
        assert command.help, name
        # Typer takes what stands in brackets for markup, and leaves it out.
        assert re.search(r"\[[a-z]", command.help) is None, name
        for option in command.params:
            assert getattr(option, "help", None), (name, option.name)


def test_help_shows_what_is_typed_and_no_types_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags had `<bool>` behind them, and the names of pairs `<list[str]>`."""
    for name, _ in every_command():
        with pytest.raises(SystemExit):
            main([*name.split()[1:], "--help"])
        shown = capsys.readouterr().out
        assert "--help" in shown
        assert re.search(r"<[a-z]|BOOL", shown) is None, name


def test_every_metric_is_described_and_no_other() -> None:
    nothing = Report((), {}, datetime.fromtimestamp(0, UTC))
    families = [*registry(nothing, {}, {}).collect(), *tenants_registry({}).collect()]
    # Prometheus's text format adds the suffixes.
    suffixes = {"counter": "_total", "info": "_info"}
    there = {f"{family.name}{suffixes.get(family.type, '')}" for family in families}
    named = set(re.findall(r"`(relay_[a-z_]+)", readme()))
    guide = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    assert named <= there
    assert set(re.findall(r"^\| .*?`(relay_[a-z_]+)`.*? \|", guide, flags=re.MULTILINE)) == there


def test_it_names_every_exit_status_and_the_settings_that_there_are() -> None:
    said = readme().partition("Exit status: ")[2].partition("\n\n")[0]
    found = {value.exit_status for value in vars(errors).values() if hasattr(value, "exit_status")}
    assert {int(number) for number in re.findall(r"\b(\d) ", said)} == found | {0}
    known = {name for section in Section.__subclasses__() for name in keys_of(section)} | {*keys_of(PairSettings)}
    named = re.findall(r"`([a-z]+_[a-z_]+)(?: = [^`]*)?`", readme().replace("relay_", "Relay_"))
    assert [name for name in named if name not in known] == []
