"""Commands survive the outbox, whatever they hold."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given

from relay.domain.commands import Command, DeleteMessage, Digest, LateFile, SendMessage
from relay.domain.content import Attachment, Author, Content
from relay.domain.ids import ChannelRef, MediaRef, MessageRef, Platform, UserRef
from relay.domain.text import nodes as n
from relay.store.codec import decode, encode
from relay.store.tables import DIGEST_BEGINS, LATE_FILE_WAITS
from tests.support.trees import commands

CHANNEL = ChannelRef(Platform.DISCORD, "1")


def saying(text: n.RichText) -> SendMessage:
    """A message of that text."""
    author = Author(UserRef(Platform.DISCORD, "2"), "Ann")
    return SendMessage(MessageRef(CHANNEL, "3"), author, Content(text), datetime(2026, 1, 2, tzinfo=UTC))


@given(commands)
def test_every_command_comes_back_as_it_was(command: Command) -> None:
    assert decode(encode(command)) == command


def test_the_kind_is_what_the_index_and_the_pruning_look_for() -> None:
    """Both compare the first characters of the row. The texts are on disk, so they are written out here."""
    author, moment = Author(UserRef(Platform.DISCORD, "2"), "Ann"), datetime(2026, 1, 2, tzinfo=UTC)
    attachment = Attachment("1", "a.png", "image", MediaRef(Platform.DISCORD, "x"))
    late = LateFile(MessageRef(CHANNEL, "3"), author, attachment, moment)
    assert encode(late).startswith('{"kind":"late_file"')
    assert """'{"kind":"late_file"'""" in LATE_FILE_WAITS
    assert encode(Digest(())).startswith('{"kind":"send_batch"')
    assert DIGEST_BEGINS == '{"kind":"send_batch"'


@given(commands)
def test_the_kind_is_the_first_key(command: Command) -> None:
    assert encode(command).startswith(f'{{"kind":"{command.kind}"')


def test_a_payload_is_small_and_leaves_out_what_is_usual() -> None:
    assert json.loads(encode(DeleteMessage(MessageRef(CHANNEL, "3")))) == {
        "kind": "delete",
        "source": {"channel": {"platform": "discord", "id": "1"}, "id": "3"},
    }


def test_a_hundred_levels_of_quotes_and_of_marks() -> None:
    inline: n.Inline = n.Text("deep")
    for _ in range(100):
        inline = n.Strong((inline,))
    block: n.Block = n.Paragraph((inline,))
    for _ in range(100):
        block = n.Quote((block,))
    command = saying(n.RichText((block,)))
    assert decode(encode(command)) == command


def test_a_megabyte_of_text() -> None:
    command = saying(n.RichText((n.Paragraph((n.Text("ä☃🎉" * 100_000),)),)))
    assert decode(encode(command)) == command


def test_half_a_surrogate_pair_survives_utf_8() -> None:
    command = saying(n.RichText((n.Paragraph((n.Text("\ud83c"),)),)))
    payload = encode(command)
    assert decode(payload.encode().decode()) == command


def test_unknown_keys_are_ignored_and_missing_ones_take_their_default() -> None:
    record = json.loads(encode(saying(n.RichText.plain("hello"))))
    record["mood"] = "good"
    record["author"]["pronouns"] = "they"
    record["content"]["text"]["blocks"][0]["children"][0]["colour"] = "red"
    assert decode(json.dumps(record)) == saying(n.RichText.plain("hello"))
    del record["content"]["text"]
    assert decode(json.dumps(record)) == saying(n.RichText())


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "null",
        "[]",
        "{}",
        "7",
        '{"kind":"dance"}',
        '{"kind":"send"}',
        '{"kind":"delete","source":"x"}',
        "[" * 10_000,
    ],
)
def test_what_is_no_command_is_refused_as_such(payload: str) -> None:
    with pytest.raises(ValueError, match=r"no command|Expecting"):
        decode(payload)
