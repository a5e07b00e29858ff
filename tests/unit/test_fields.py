"""Each field of the platforms' documentation is shown, read, or left out on purpose (`tests/payloads/fields.toml`)."""

import ast
from pathlib import Path

import discord
import pytest

from tests.support.fields import Fields, matters, sections
from tests.support.payloads import Case, cases

SECTIONS = sections()
CASES: dict[tuple[str, str], Case] = {
    (platform, case.name): case
    for platform in dict.fromkeys(section.platform for section in SECTIONS)
    for case in cases(platform)
}

# The structures of https://docs.discord.com/developers/resources/message (commit 02da118a of discord-api-docs) and of
# version 1.19 of Matrix's specification.
DOCUMENTED = {
    "discord.message": "id channel_id author content timestamp edited_timestamp tts mention_everyone mentions "
    "mention_roles mention_channels attachments embeds reactions nonce pinned webhook_id type activity application "
    "application_id flags message_reference message_snapshots referenced_message interaction_metadata interaction "
    "thread components sticker_items stickers position role_subscription_data resolved poll call shared_client_theme",
    "discord.attachment": "id filename title description content_type size url proxy_url height width placeholder "
    "placeholder_version ephemeral duration_secs waveform flags clip_participants clip_created_at application",
    "discord.embed": "title type description url timestamp color footer image thumbnail video provider author fields "
    "flags",
    "discord.embed_field": "name value inline",
    "discord.embed_image": "url proxy_url height width content_type placeholder placeholder_version description flags",
    "discord.message_snapshot": "type content embeds attachments timestamp edited_timestamp flags mentions "
    "mention_roles stickers sticker_items components",
    "discord.role_subscription_data": "role_subscription_listing_id tier_name total_months_subscribed is_renewal",
    "discord.sticker_item": "id name format_type",
    "discord.poll": "question answers expiry allow_multiselect layout_type results",
    "matrix.event": "type room_id sender event_id origin_server_ts content unsigned state_key",
    "matrix.message": "msgtype body format formatted_body filename url file info geo_uri m.mentions m.relates_to "
    "m.new_content external_url",
    "matrix.info": "mimetype size h w duration thumbnail_url thumbnail_file thumbnail_info is_animated",
    "matrix.encrypted_file": "url key iv hashes v",
    "matrix.mentions": "user_ids room",
}


def _name(section: Fields) -> str:
    return f"{section.platform}.{section.name}"


@pytest.mark.parametrize("section", SECTIONS, ids=_name)
def test_every_field_has_its_fate_and_every_omission_its_reason(section: Fields) -> None:
    assert section.source.startswith("https://")
    missing = set(DOCUMENTED.get(_name(section), "").split()) - section.fates.keys()
    assert not missing
    for field, fate in section.fates.items():
        how, _, said = fate.partition(": ")
        assert how in {"shown", "read", "left out"}, field
        assert len(said) > 5 or how == "shown", field


def test_every_documented_object_is_there() -> None:
    assert DOCUMENTED.keys() <= {_name(section) for section in SECTIONS}


def _annotated(module: str, name: str) -> set[str]:
    """The fields of one of discord.py's typed dictionaries; their modules cannot be imported, only read."""
    source = (Path(discord.__file__).parent / "types" / f"{module}.py").read_text(encoding="utf-8")
    found = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        line.target.id for line in found.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def test_the_library_knows_no_field_that_the_table_does_not() -> None:
    known = {_name(section): section.fates.keys() for section in SECTIONS}
    assert _annotated("message", "Message") <= known["discord.message"]
    assert _annotated("message", "Attachment") <= known["discord.attachment"]
    assert _annotated("embed", "Embed") <= known["discord.embed"]
    assert _annotated("poll", "Poll") <= known["discord.poll"]
    assert _annotated("sticker", "StickerItem") <= known["discord.sticker_item"]


@pytest.mark.parametrize("section", SECTIONS, ids=_name)
async def test_what_is_shown_is_shown(section: Fields) -> None:
    for field, fate in section.fates.items():
        how, _, said = fate.partition(": ")
        if how == "shown":
            case = CASES[section.platform, said]
            assert await matters(case, section.platform, section.path, field) is True, (field, said)
