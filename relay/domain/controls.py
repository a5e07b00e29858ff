"""Characters that steer a terminal or a printer, and say nothing to a reader."""

import re

# Sequences that colour text, move the cursor or set a window's title (ECMA-48); then C0 and C1 alone, but for line
# breaks and tabs.
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*+(?:\x07|\x1b\\|\x9c)"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def without_controls(text: str) -> str:
    """`text` without them; linear in its length."""
    return text if _CONTROLS.search(text) is None else _CONTROLS.sub("", text)
