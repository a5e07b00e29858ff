"""Which member of a room a typed name means."""

from relay.adapters.matrix.members import unique_names
from relay.domain.ids import Platform, UserRef

ME = "@relay:example.org"


def members(**names: str | None) -> dict[str, object]:
    return {"joined": {f"@{local}:example.org": {"display_name": name} for local, name in names.items()}}


def user(local: str) -> UserRef:
    return UserRef(Platform.MATRIX, f"@{local}:example.org")


def test_a_name_that_one_member_has_means_that_member() -> None:
    found = unique_names(members(mia="Mia Lee", bob=None, relay="relay"), ME.__eq__)
    assert found["mia lee"] == user("mia")
    assert found["bob"] == user("bob")
    assert found["mia:example.org"] == found["@mia:example.org"] == user("mia")
    assert found["mia"] == user("mia")
    assert "relay" not in found


def test_a_local_part_that_is_the_display_name_of_another_means_that_other() -> None:
    found = unique_names(members(mia="Lee", lee="Mia", bob="Amy", rob="Amy", amy="Rob"), ME.__eq__)
    assert (found["mia"], found["lee"]) == (user("lee"), user("mia"))
    assert "amy" not in found
    assert found["bob"] == user("bob")


def test_a_name_that_several_members_have_means_nobody() -> None:
    assert "mia" not in unique_names(members(a="Mia", b="MIA"), ME.__eq__)


def test_odd_answers_to_joined_members() -> None:
    assert unique_names({}, ME.__eq__) == {}
    assert unique_names({"joined": []}, ME.__eq__) == {}
    assert unique_names({"joined": {"@a:example.org": None}}, ME.__eq__)["a"] == user("a")
