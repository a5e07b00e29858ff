"""What is in `deploy/` fits the program: settings, paths, variables."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from typer.core import TyperGroup

import relay
from relay.cli.commands import application
from relay.config.loading import load
from relay.config.settings import Section, Settings, keys_of
from relay.config.sources import LISTS
from relay.errors import ConfigurationError
from tests.support.metrics import families
from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "relay.example.toml"
TOKENS = {"RELAY_DISCORD__TOKEN": "x", "RELAY_MATRIX__ACCESS_TOKEN": "x"}
# "…" stands for what only the operator knows, and these have no default at all.
WITHOUT_DEFAULT = {
    "token",
    "token_file",
    "url_file",
    "access_token_file",
    "password",
    "password_file",
    "matrix_room",
    "discord_channel",
}


def sections() -> list[tuple[str, type[Section]]]:
    found = []
    for name, one in keys_of(Settings).items():
        kinds = (one.type, *get_args(one.type))
        found.append((name, next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))))
    return found


def uncommented() -> dict[str, Any]:
    """The example with every key that is commented out; `[[pairs]]` and `[[rooms]]` as the union of all of them."""
    text = re.sub(r"^# (?=[a-z_.]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    document = tomllib.loads(text)
    return {
        name: {key: value for table in content for key, value in table.items()} if name in LISTS else content
        for name, content in document.items()
    }


@pytest.mark.parametrize(("section", "model"), sections())
def test_every_setting_is_in_the_example(section: str, model: type[Section]) -> None:
    shown = set(uncommented()[section])
    expected = set(keys_of(model))
    if section == "pairs":
        # What [defaults] shows already need not stand there again.
        expected -= set(uncommented()["defaults"]) - shown
    assert shown == expected
    for key, field in keys_of(model).items():
        # A table within a table: `moderation.deletions`.
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, Section) and section != "pairs":
                assert set(uncommented()[section][key]) == set(keys_of(kind)), key


@pytest.mark.parametrize(("section", "model"), [(name, model) for name, model in sections() if name not in LISTS])
def test_what_is_commented_out_is_the_default(section: str, model: type[Section]) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    part = text[text.index(f"\n[{section}]\n") :].split("\n[", 2)[1]
    shown = re.findall(r"^# ([a-z_]+) = (.+)$", part, flags=re.MULTILINE)
    defaults = getattr(load(EXAMPLE, TOKENS), section)
    for key, value in shown:
        if key not in WITHOUT_DEFAULT:
            given = {**TOKENS, f"RELAY_{section}__{key}".upper(): str(tomllib.loads(f"x = {value}")["x"])}
            assert getattr(getattr(load(EXAMPLE, given), section), key) == getattr(defaults, key), key


def test_the_example_works_once_the_tokens_are_there() -> None:
    settings = load(EXAMPLE, TOKENS)
    assert [pair.name for pair in settings.declared_pairs()] == ["help", "!OGEhHVWSdvArJzumhm:example.org"]
    with pytest.raises(ConfigurationError) as caught:
        load(EXAMPLE, {})
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize("file", ["deploy/Dockerfile", "deploy/relay.service", "docker-compose.yml"])
def test_every_variable_is_a_setting(file: str, tmp_path: Path) -> None:
    found = re.findall(r"\b(RELAY_[A-Z_]+)(?:=|: )(\S+)", (ROOT / file).read_text(encoding="utf-8"))
    assert found
    values = {name: value for name, value in found if name != "RELAY_CONFIG"}
    if "RELAY_WEB__TOKEN_FILE" in values:
        # The operator makes it.
        assert values["RELAY_WEB__TOKEN_FILE"] == "/etc/relay/web_token"
        (tmp_path / "web_token").write_text("0123456789abcdef\n")
        values["RELAY_WEB__TOKEN_FILE"] = str(tmp_path / "web_token")
    assert load(EXAMPLE, {**TOKENS, **values}).pairs


def test_files_on_their_way_cannot_fill_the_memory_of_the_machine() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert re.search(r"tmpfs:\n +- /tmp:size=\d+[mg],", compose)


def test_compose_shows_the_daemon_a_file_that_an_editor_put_in_the_place_of_the_old_one() -> None:
    """A mounted file is always the one that was there at the start; a mounted directory shows the new one."""
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    folder = Path(re.findall(r"RELAY_CONFIG=(\S+)", dockerfile)[0]).parent.as_posix()
    assert re.search(rf"type: bind\n +source: \./config\n +target: {folder}\n", compose)
    assert "\nsecrets:" not in compose
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/config/" in ignored


def test_compose_builds_the_relay_and_asks_no_registry_for_it() -> None:
    """Where the image was not there yet, it looked for that name in Docker's registry first, and would have run it."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["relay"]
    assert service["build"]["dockerfile"] == "deploy/Dockerfile"
    assert service["pull_policy"] == "never"


def test_what_compose_s_guide_has_one_write_stays_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ("/.env" in ignored, ".env`" in guide()) == (True, True)


def test_the_status_page_of_compose_is_reached_from_this_machine_only() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "RELAY_WEB__LISTEN: 0.0.0.0:9464\n" in compose
    ports = re.findall(r"^ +- (\S+:\d+:\d+)$", compose, flags=re.MULTILINE)
    assert "127.0.0.1:9464:9464" in ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_everything_that_compose_mounts_is_there() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    mounted = re.findall(r"^ +- \./(\S+?):/\S+:ro$", compose, flags=re.MULTILINE)
    assert len(mounted) >= 4
    assert [path for path in mounted if not (ROOT / path).is_file()] == []


def test_the_release_finds_the_version_and_the_files_that_it_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    (expression,) = re.findall(r"sed -n '(s/.+/p)' (\S+)\)", workflow)
    found = subprocess.run(["sed", "-n", expression[0], ROOT / expression[1]], capture_output=True, text=True)
    assert found.stdout == f"{relay.__version__}\n"
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:deploy/[\w.]+|CHANGELOG\.md|relay/__init__\.py)\b", workflow))
    assert {"deploy/Dockerfile", "deploy/requirements.lock"} <= named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def guide() -> str:
    return (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")


def test_the_guide_names_only_files_that_are_there_and_headings_that_it_has() -> None:
    headings = re.findall(r"^## (.+)$", guide(), flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", guide()):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            assert not path or (ROOT / "deploy" / path).exists(), target
            assert path or anchor in anchors, target


def test_the_guide_gives_commands_that_there_are() -> None:
    root = typer.main.get_command(application())
    assert isinstance(root, TyperGroup)
    blocks = re.findall(r"```(?:sh)?\n(.*?)```|`([^`\n]+)`", guide(), flags=re.DOTALL)
    said = "\n".join(block or inline for block, inline in blocks)
    called = re.findall(
        r"(?:bin/relay|^relay|relay relay|--rm (?:--build )?relay|… relay) ([a-z]+)(?: ([a-z]+))?", said, re.MULTILINE
    )
    assert {"init", "run", "status", "check", "db", "directory", "registration"} <= {name for name, _ in called}
    for name, more in called:
        command = root.commands.get(name)
        assert command is not None, name
        if isinstance(command, TyperGroup):
            assert more in command.commands, (name, more)


def test_the_guide_has_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| (`relay_.+?) \| (.*?) \|", guide(), flags=re.MULTILINE)
    shown = {name: set(labels.split(", ")) - {""} for names, labels in rows for name in re.findall(r"`(\w+)`", names)}
    labels: dict[str, set[str]] = {}
    for family in families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels[f"{name}_info" if family.type == "info" else name] = {
            label for sample in family.samples for label in sample.labels
        }
    assert shown.keys() == labels.keys()
    for name, there in labels.items():
        assert there - {"le", "python"} <= shown[name], name


def test_the_guide_has_every_page_of_the_web_server() -> None:
    rows = set(re.findall(r"^\| `(/[a-z]*)/?` \|", guide(), flags=re.MULTILINE))
    server = (ROOT / "relay" / "web" / "server.py").read_text(encoding="utf-8")
    routes = set(re.findall(r"\.add_get\(\"(/[a-z]*)\"", server))
    assert rows - {"/", "/media", "/directory"} == routes


def test_the_unit_exposes_little() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze (Debian's package systemd has it)")
    unit = ROOT / "deploy" / "relay.service"
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_what_the_image_copies_is_let_through_to_the_builder() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert "relay" in copied
    for source in copied:
        assert f"!{source}" in ignored
        assert (ROOT / source).exists() or source == "deploy/requirements.lock"
