"""A configuration with tenants: relay.toml names a folder, and each file in it is one."""

from pathlib import Path

import pytest

from relay.config.loading import load
from relay.config.settings import HOST_VARIABLE
from relay.config.store_url import of_tenant, schema_in
from relay.config.tenants import Host, load_host
from relay.errors import ConfigurationError

HOST = 'tenants = "tenants.d"\n[store]\nurl = "postgresql://relay:hush-hush@db/relay"\n[log]\nlevel = "warning"\n'
TENANT = """
[discord]
token = "abc.def.ghi"
[matrix]
homeserver_url = "https://matrix.example.org"
user_id = "@relay:example.org"
access_token = "syt"
[[pairs]]
discord_channel = 1234567890123456789
matrix_room = "#help:example.org"
"""


def host(folder: Path, text: str = HOST, **tenants: str) -> Host:
    """The configuration with these tenants."""
    (folder / "relay.toml").write_text(text)
    (folder / "tenants.d").mkdir(exist_ok=True)
    for name, written in tenants.items():
        (folder / "tenants.d" / f"{name}.toml").write_text(written)
    found = load_host(folder / "relay.toml", {})
    assert found is not None
    return found


def mistakes(error: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    """What is wrong, without the folder."""
    return [f"{Path(one.where.split(':')[0]).name}: {one.what}" for one in error.value.mistakes]


def test_each_has_its_own_store_and_what_is_the_processes(tmp_path: Path) -> None:
    found = host(tmp_path, one=TENANT, two=TENANT)
    assert list(found.files()) == ["one", "two"]
    one, two = found.load("one"), found.load("two")
    assert one.store.url == "postgresql://relay:hush-hush@db/relay?search_path=tenant_one"
    assert schema_in(two.store.url) == "tenant_two"
    assert one.log.level == "warning"
    assert one.web.listen == ""
    assert "hush-hush" in one.secrets()
    assert "hush-hush" not in one.store.name


def test_on_sqlite_each_has_a_file_beside_the_processes(tmp_path: Path) -> None:
    found = host(tmp_path, 'tenants = "tenants.d"\n', one=TENANT)
    assert found.load("one").store.path == tmp_path / "relay-one.db"
    assert of_tenant("sqlite:////var/lib/re.lay/store", "one") == "sqlite:////var/lib/re.lay/store-one"


def test_a_command_is_about_the_tenant_that_was_named(tmp_path: Path) -> None:
    found = host(tmp_path, one=TENANT, two="[discord")
    assert load(found.path_of("one"), {HOST_VARIABLE: str(found.file)}) == found.load("one")
    with pytest.raises(ConfigurationError, match=r"name one with --tenant: one, two"):
        load(found.file, {})
    with pytest.raises(ConfigurationError, match=r"there is no such tenant; write one of one, two"):
        found.path_of("three")


def test_communities_within_the_file_are_led_into_files_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[store]\nurl = "sqlite:///a.db"\n[[tenants]]\nname = "one"\n[tenants.discord]\ntoken = "a"\n')
    for read in (load, load_host):
        with pytest.raises(ConfigurationError) as error:
            read(file, {})
        (mistake,) = error.value.mistakes
        assert mistake.where == f"{file}:3: [[tenants]] 1"
        assert 'tenants = "tenants.d"' in mistake.remedy


def test_mistakes_name_the_file_and_the_fix(tmp_path: Path) -> None:
    found = host(tmp_path, one=f"[store]\nurl = 'sqlite:///a.db'\n{TENANT}", two=TENANT.replace("abc.def.ghi", ""))
    with pytest.raises(ConfigurationError) as error:
        found.load("one")
    assert mistakes(error) == ["one.toml: a tenant has no [store] of its own"]
    with pytest.raises(ConfigurationError) as error:
        found.load("two")
    assert mistakes(error)[0].startswith("two.toml: ")
    (tmp_path / "relay.toml").write_text(f"{HOST}[discord]\ntoken = 'a'\n[[pairs]]\n")
    with pytest.raises(ConfigurationError) as error:
        load_host(tmp_path / "relay.toml", {})
    assert len(mistakes(error)) == 2
    (tmp_path / "relay.toml").write_text('tenants = "nowhere"')
    with pytest.raises(ConfigurationError, match="there is no folder"):
        load_host(tmp_path / "relay.toml", {})


def test_the_environment_speaks_of_the_process_only(tmp_path: Path) -> None:
    host(tmp_path, one=TENANT)
    found = load_host(tmp_path / "relay.toml", {"RELAY_STORE__URL": "sqlite:///other.db"})
    assert found is not None
    assert found.load("one").store.path == tmp_path / "other-one.db"
    with pytest.raises(ConfigurationError, match="RELAY_DISCORD__TOKEN"):
        load_host(tmp_path / "relay.toml", {"RELAY_DISCORD__TOKEN": "abc"})


def test_what_is_for_one_community_has_no_tenants(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(TENANT)
    assert load_host(tmp_path / "relay.toml", {}) is None
    assert load_host(tmp_path / "missing.toml", {}) is None


def test_a_key_in_another_section_of_the_process(tmp_path: Path) -> None:
    """`tenants` is a section of one line, in which nothing can be looked for."""
    (tmp_path / "relay.toml").write_text('tenants = "tenants.d"\n[log]\nretention = "3d"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_host(tmp_path / "relay.toml", {})
    (told,) = caught.value.mistakes
    assert told.remedy == "move it into [store], above the first [[pairs]]"
