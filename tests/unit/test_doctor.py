"""What `relay check` says of relays with other stores on the same accounts, and of files that others may read."""

import os
import pwd
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from relay.config.loading import load
from relay.core.claims.register import Claim
from relay.core.operations.findings import Finding
from relay.doctor import local_findings, other_relays_finding
from relay.domain.ids import ChannelAddress, Platform
from relay.domain.pair import Pair
from relay.store.lease import Holder
from tests.support.settings import SIDES, write

PAIRS = [
    Pair(
        name=room,
        sides=(ChannelAddress(Platform.DISCORD, channel), ChannelAddress(Platform.MATRIX, room)),
        destinations=frozenset(Platform) if channel != "3" else frozenset(),
    )
    for channel, room in (("1", "#one:example.org"), ("2", "#two:example.org"), ("3", "#archived:example.org"))
]


def claim(store: str, *channels: str) -> Claim:
    return Claim(store, "f", "old.example.org", "", 12, "", "2026-11-28T10:00:00+00:00", frozenset(channels))


MINE = claim("mine")


def test_another_relay_is_named_with_the_remedy() -> None:
    found = other_relays_finding([claim("mine", "1", "2"), claim("other", "2", "3", "9")], MINE, PAIRS)
    assert found.state == "wrong"
    assert found.words == "process 12 on old.example.org, since 2026-11-28 10:00:00 UTC holds 1 of these pairs"
    assert "--take-over" in found.remedy


def test_our_own_claim_and_those_to_other_channels_are_no_trouble() -> None:
    assert other_relays_finding([claim("mine", "1"), claim("other", "9")], MINE, PAIRS).state == "ok"
    assert other_relays_finding([], None, PAIRS).state == "ok"


def test_a_relay_on_another_copy_of_the_store_is_another_relay() -> None:
    """It was said that none holds these pairs, where `relay run` would wait for that one."""
    mine = replace(MINE, boot="now", channels=frozenset({"1", "2"}))
    for ours in (mine, replace(mine, boot="before"), replace(mine, host="another container")):
        assert other_relays_finding([ours], replace(mine, pid=1), PAIRS).state == "ok"
    for elsewhere in (replace(mine, file="g"), replace(mine, host="new.example.org", boot="another")):
        found = other_relays_finding([elsewhere], mine, PAIRS)
        assert found.state == "wrong"
        assert (
            f"on {elsewhere.host}, since 2026-11-28 10:00:00 UTC, on another copy of this store, holds 2" in found.words
        )
    database = replace(mine, file="database 7")
    assert other_relays_finding([replace(database, host="b", boot="b")], database, PAIRS).state == "ok"


def test_a_relay_that_has_ended_on_this_machine_is_no_trouble() -> None:
    process = Holder.this_process("token", datetime.now(UTC))
    boot = process.started.partition(" ")[0]
    # The same process ID, of a process that started at another moment.
    ended = Claim("other", "f", process.host, boot, process.pid, f"{process.started}0", "", frozenset({"1"}))
    assert other_relays_finding([ended], MINE, PAIRS).state == "note"
    alive = replace(ended, started=process.started)
    assert other_relays_finding([alive], MINE, PAIRS).state == "wrong"
    # Another machine of the same name, or this one before its last boot: nobody can tell.
    elsewhere = replace(ended, boot="another", started=f"another {process.started.split()[1]} 1")
    assert other_relays_finding([elsewhere], MINE, PAIRS).state == "wrong"


def test_files_with_secrets_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody was told of a token's own file, which an editor or `echo` makes readable for everybody."""
    config, token, access = tmp_path / "relay.toml", tmp_path / "discord_token", tmp_path / "access_token"
    config.write_text(
        '[discord]\ntoken_file = "discord_token"\n[matrix]\nhomeserver_url = "https://example.org"\n'
        f'user_id = "@relay:example.org"\naccess_token_file = "{access}"\n'
    )
    token.write_text("MTk4NjIyNDgz.secret.discord\n")
    access.write_text("syt_secret\n")

    def told() -> list[str]:
        return [str(one) for one in local_findings(load(config, {}), config) if one.remedy.startswith("chmod")]

    config.chmod(0o644)  # it holds no secret itself
    token.chmod(0o644)
    access.chmod(0o640)
    # Nobody else is in a group of one's own, as in the container: Compose gives it to Prometheus for this file alone.
    own = pwd.getpwuid(os.geteuid())
    for members, others in (([], False), ([own.pw_name], False), (["prometheus"], True)):
        monkeypatch.setattr("grp.getgrgid", lambda _, members=members: SimpleNamespace(gr_mem=members))
        monkeypatch.setattr("pwd.getpwall", lambda: [own])
        assert any(f"{access}: " in one for one in told()) == others, members
    # Somebody whose first group it is, is not among its members.
    monkeypatch.setattr("grp.getgrgid", lambda _: SimpleNamespace(gr_mem=[]))
    colleague = pwd.struct_passwd(("colleague", "x", own.pw_uid + 1, access.stat().st_gid, "", "/", "/bin/sh"))
    monkeypatch.setattr("pwd.getpwall", lambda: [own, colleague])
    assert told() == [
        f"{token}: it holds a secret, and everybody on this machine may read it; chmod 600 {token}",
        f"{access}: it holds a secret, and its group may read it; chmod 600 {access}",
    ]
    # Docker mounts a secret as it is on the host: somebody else's, whom it is for.
    monkeypatch.setattr("os.geteuid", lambda: token.stat().st_uid + 1)
    assert told() == []
    monkeypatch.undo()
    for file in (token, access):
        file.chmod(0o600)
    assert told() == []


def test_a_variable_that_goes_before_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, f'{SIDES}[log]\nlevel = "info"\n')
    line = config.read_text().splitlines().index('level = "info"') + 1
    words = f"it goes before {config}:{line}: [log] level, which says something else"
    told = Finding("environment variable RELAY_LOG__LEVEL", "note", words, "remove one of the two")
    for environ, expected in (({"RELAY_LOG__LEVEL": "debug"}, [told]), ({}, [])):
        found = local_findings(load(config, environ), config)
        assert [one for one in found if one.subject.startswith("environment")] == expected
