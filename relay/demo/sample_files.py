"""Pictures, a sound and a film for the conversation: drawn for it, and under the project's licence."""

import base64
from dataclasses import dataclass
from importlib.resources import files

from relay.domain.jsontext import Json

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".ogg": "audio/ogg",
    ".webm": "video/webm",
    ".txt": "text/plain",
}
FILM_SIZE = (480, 270)
FILM_SECONDS = 4.0
VOICE_SECONDS = 3.2
WAVEFORM = bytes.fromhex(
    "c0b29984726355fffba58e7b6a5c4ff9b19984726355fbfca58e7b6a5c4f443b332c26211c191512100e0c0a09080700"
)
"""The loudness of `voice.ogg`, a byte for each of 48 moments."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file to send. `name` as people see it."""

    name: str
    data: bytes

    @property
    def content_type(self) -> str:
        """By its name."""
        return TYPES[self.name[self.name.rindex(".") :]]

    def upload(self, **more: object) -> Json:
        """For `Control.say`, with `more` of what that takes."""
        return {"filename": self.name, "data": base64.b64encode(self.data).decode(), **more}


def sample_file(file: str, name: str = "") -> SampleFile:
    """One of the files in `props`, under another name if one is given."""
    return SampleFile(name or file, files("relay.demo").joinpath("sample_files", file).read_bytes())
