"""The URL of a store: which database it names, and how it may be shown. Nothing is imported for that."""

import re
from urllib.parse import unquote, urlsplit


def names_postgresql(url: str) -> bool:
    """Whether it names a database of PostgreSQL."""
    return url.startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(?<=[?&]password=)[^&]*", "…", re.sub(r"^([a-z]+://[^/@:]*):[^@]*@", r"\1@", url))


def passwords_of(url: str) -> tuple[str, ...]:
    """What must not be shown of it, as it is written and as it is meant."""
    written = re.findall(r"^[a-z]+://[^/@:]*:([^@]*)@", url) + re.findall(r"[?&]password=([^&]*)", url)
    return tuple({word for one in written for word in (one, unquote(one)) if word})


def names_a_database(url: str) -> bool:
    """Whether the URL of a database of PostgreSQL is whole: it has the name of one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return len(parts.path) > 1 and not set(url) & set("#\0 ")
