"""What a channel can carry, as data. `core.convert.degrade` reads it; nothing asks which platform it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The limits of one channel."""

    # In the unit of the adapter's `measure`, which counts the text as rendered.
    max_text_length: int
    # If false, a reply becomes a quoted line above the text.
    native_replies: bool
    # Files of one message.
    max_attachments: int = 0
    # Bytes of each file, and of all files of a message together.
    max_file_size: int = 0
    max_request_size: int = 0
