"""What a platform can carry, as data. `core.degrade` reads it; nothing asks which platform it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The limits of one channel.

    `max_text_length` is in the unit of the adapter's `measure`: what counts is the text as rendered, not the tree.
    `native_replies` false: a reply becomes a quoted line above the text. `max_attachments` in one
    message; `max_file_size` for each of them and `max_request_size` for all of a message together, in bytes.
    """

    max_text_length: int
    native_replies: bool
    max_attachments: int = 0
    max_file_size: int = 0
    max_request_size: int = 0
