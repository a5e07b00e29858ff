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


def problem_with_database(url: str) -> tuple[str, str] | None:
    """What is wrong with the URL of a database of PostgreSQL, and what to write instead; None if it is well.

    A password is written into it as it is, mostly: what is no part of one then ends where the host begins.
    """
    for sign, name, escaped in (("#", "#", "%23"), (" ", "blank", "%20")):
        if sign in url:
            return f"has a {name} in it", f"write {escaped} for it, also in a password"
    whole = 'write "postgresql://user:password@host/relay"'
    try:
        parts = urlsplit(url)
    except ValueError:
        return "cannot be read", whole
    if "@" in parts.path:
        return "has a / in its password", "write %2F for it"
    if not _has_good_ports(parts.netloc):
        if "@" in parts.query and "@" not in parts.netloc:
            return "has a ? in its password", "write %3F for it"
        return "has a port that is no number up to 65535", whole
    return None if len(parts.path) > 1 and "\0" not in url else ("names no database", whole)


def _has_good_ports(netloc: str) -> bool:
    try:
        for host in netloc.rpartition("@")[2].split(","):  # there may be several
            _ = urlsplit(f"//{host}").port
    except ValueError:
        return False
    return True
