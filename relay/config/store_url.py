"""The URL of a store: which database it names, and how it may be shown. Nothing is imported for that."""

import re
from urllib.parse import parse_qs, unquote, urlsplit

# What stands before the host, as a URL is read: up to its last `@`, which people may forget to escape in a password.
_PASSWORD = re.compile(r"^([a-z]+://[^/@:?#]*):([^/?#]*)@")
_PARAMETER = re.compile(r"(?<=[?&])((?:ssl)?password)=([^&]*)")


def names_postgresql(url: str) -> bool:
    """Whether it names a database of PostgreSQL."""
    return url.startswith(("postgresql://", "postgres://"))


def schema_in(url: str) -> str:
    """The schema of the database that the store's tables are in; "" for the usual one (`public`)."""
    found = parse_qs(urlsplit(url).query).get("search_path") if names_postgresql(url) else None
    return found[-1] if found else ""


def of_tenant(url: str, tenant: str) -> str:
    """The URL of a tenant's store: a schema of its own in the database, or a file of its own beside the file."""
    if not names_postgresql(url):
        stem, dot, suffix = url.rpartition(".")
        return f"{stem}-{tenant}.{suffix}" if dot and "/" not in suffix else f"{url}-{tenant}"
    return f"{url}{'&' if '?' in url else '?'}search_path=tenant_{tenant}"


def without_schema(url: str) -> str:
    """The URL of the database that the schema is in."""
    base, _, query = url.partition("?")
    kept = "&".join(part for part in query.split("&") if not part.startswith("search_path="))
    return f"{base}?{kept}" if kept else base


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
