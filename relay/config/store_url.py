"""The URL of a store: which database it names, and how it may be shown. Nothing is imported for that."""

import re
from urllib.parse import unquote, urlsplit

# What stands before the host, as a URL is read: up to its last `@`, which people may forget to escape in a password.
_PASSWORD = re.compile(r"^([a-z]+://[^/@:?#]*):([^/?#]*)@")
_PARAMETER = re.compile(r"(?<=[?&])((?:ssl)?password)=([^&]*)")


def names_postgresql(url: str) -> bool:
    """Whether it names a database of PostgreSQL."""
    return url.startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return _PARAMETER.sub(r"\1=…", _PASSWORD.sub(r"\1@", url))


def passwords_of(url: str) -> tuple[str, ...]:
    """What must not be shown of it, as it is written and as it is meant."""
    written = [found for pattern in (_PASSWORD, _PARAMETER) for _, found in pattern.findall(url)]
    return tuple({word for one in written for word in (one, unquote(one)) if word})


def names_a_database(url: str) -> bool:
    """Whether the URL of a database of PostgreSQL is whole: it has the name of one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return len(parts.path) > 1 and not set(url) & set("#\0 ")
