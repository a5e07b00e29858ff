"""How the server is reached, and what its errors mean for the operator."""

import asyncio
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from relay.config.store_url import schema_in, without_password, without_schema
from relay.errors import StoreError, StoreUnavailable
from relay.logs import get_logger

try:
    import asyncpg
except ImportError as missing:  # pragma: no cover - the tests have it
    reason = "the library for PostgreSQL is not installed"
    raise StoreError("on PostgreSQL", reason, "install it: pip install 'discord-matrix-relay[postgres]'") from missing

CONNECT_TIMEOUT = 5.0
# Seconds until a statement counts as lost. The server gives up earlier than we, so that it is not left working.
STATEMENT_TIMEOUT, ANSWER_TIMEOUT = 20.0, 25.0
# A process that was stopped within a transaction must not keep its locks.
IDLE_TIMEOUT = 10.0

_OLDEST = 14

# What asyncpg raises when the line breaks: the second, for a statement that finds the end of the connection under way.
_OF_THE_LINE = (asyncpg.InterfaceError, asyncpg.InternalClientError)
ERRORS = (asyncpg.PostgresError, *_OF_THE_LINE, OSError)

_log = get_logger(__name__)

NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
"""The database's time, as it stands in a lease."""


def writer_name(token: str) -> str:
    """What the connection is called that writes for the holder of a lease."""
    return f"relay {token}"


def quoted(name: str) -> str:
    """A schema's name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


async def connect(
    url: str, *, lock_timeout: float, patience: float | None = None, name: str = "relay"
) -> asyncpg.Connection:
    """A connection with our settings, called `name` there (63 bytes). Raises `StoreError`.

    `patience`: seconds that a statement may take instead.
    """
    database = without_password(url)
    with translated(database):
        connection = await asyncpg.connect(
            without_schema(url),
            timeout=CONNECT_TIMEOUT,
            command_timeout=patience or ANSWER_TIMEOUT,
            statement_cache_size=500,
            max_cached_statement_lifetime=0,
            # No other settings: PgBouncer refuses them here.
            server_settings={"application_name": name},
        )
        try:
            process = await _set_up(connection, database, lock_timeout, patience)
            if process != connection.get_server_pid():
                await _refuse_shared(url, database, process)
            if schema := schema_in(url):
                # Not when it connects: poolers refuse that, or leave it out, and all tenants would share one store.
                await connection.execute("SELECT set_config('search_path', $1, false)", schema)
        except BaseException:
            connection.terminate()
            raise
    return connection


async def _set_up(connection: asyncpg.Connection, name: str, lock_timeout: float, patience: float | None) -> int:
    """Make our settings, and refuse what would lose or change data. Returns the ID of the server's process."""
    if connection.get_server_version().major < _OLDEST:
        version = ".".join(map(str, connection.get_server_version()[:2]))
        raise StoreError(name, f"the server is PostgreSQL {version}", f"use PostgreSQL {_OLDEST} or later")
    row = await connection.fetchrow(
        "SELECT current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,"
        " pg_backend_pid() AS process, set_config('statement_timeout', $1, false) AS statement,"
        " set_config('lock_timeout', $2, false) AS lock,"
        " set_config('idle_in_transaction_session_timeout', $3, false) AS idle,"
        # A commit that is not on the disk may be lost with what was sent for it: see CONTRIBUTING, "Decisions".
        " CASE current_setting('synchronous_commit') WHEN 'off'"
        " THEN set_config('synchronous_commit', 'on', false) END AS changed",
        _milliseconds(patience or STATEMENT_TIMEOUT),
        _milliseconds(lock_timeout),
        _milliseconds(patience or IDLE_TIMEOUT),
    )
    if row["encoding"] != "UTF8":
        raise StoreError(
            name, f"its encoding is {row['encoding']}", "make one with CREATE DATABASE relay ENCODING 'UTF8'"
        )
    if row["standby"]:
        raise StoreUnavailable(name, "the server is a standby, which can only be read", "name the primary server")
    return int(row["process"])


async def _refuse_shared(url: str, name: str, process: int) -> None:
    """Refuse a pooler between us and the server that gives our session's process there to others, too.

    Locks of a session, its settings and prepared statements do not survive that. Where each connection has a process
    to itself, another one has another process.
    """
    other = await asyncpg.connect(without_schema(url), timeout=CONNECT_TIMEOUT, command_timeout=ANSWER_TIMEOUT)
    try:
        shared = await other.fetchval("SELECT pg_backend_pid()") == process
    finally:
        other.terminate()
    if shared:
        raise StoreError(
            name,
            "a pooler shares its connections (PgBouncer's transaction pooling)",
            "name the server itself, or set pool_mode = session for this database",
        )


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


READ_ONLY = ("it is read-only", "name the primary server, or end the read-only mode")
LOCKED = ("it is locked by another process", "end that one (pg_stat_activity shows it)")

# https://www.postgresql.org/docs/current/errcodes-appendix.html: by the whole code, or its first two characters.
_REASONS = {
    "08": ("the connection was lost", "check that the server runs and that the network holds"),
    "25006": READ_ONLY,
    "25P03": ("a transaction took too long", "try again; a relay that still runs does so by itself"),
    "28": (
        "the server refuses the user or the password",
        "correct them in [store] url, or let the user in (pg_hba.conf)",
    ),
    "3D000": ("there is no such database", "create it: CREATE DATABASE relay OWNER relay ENCODING 'UTF8'"),
    "40": ("the server broke off a transaction", "try again; a relay that still runs does so by itself"),
    "42501": ("the user may not do that", "let it own the database: ALTER DATABASE relay OWNER TO relay"),
    "53100": ("the server's disk is full", "free some space there; a relay that still runs then continues by itself"),
    "53200": ("the server has no memory left", "give it more memory"),
    "53300": (
        "the server has no connection left",
        "raise max_connections there, or close others; a relay needs seven, one with tenants 28",
    ),
    "55P03": LOCKED,
    "57014": ("the server is too slow", "see what it is busy with (pg_stat_activity)"),
    "57": ("the server is starting or stopping", "start it; a relay that still runs then continues by itself"),
    "58": ("the server reports an error of its disk", "check its log"),
    "XX": ("the server reports damage", "check its log, and restore a backup"),
}
_NO_TABLES = ("42P01", "42703")
_BUGS = ("0A", "21", "22", "23", "42", "54")
_OTHER = ("it does not answer", "check that the server runs, and its log")


@contextmanager
def translated(name: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turn the errors of the server and of the network in the block into `StoreError`s that name the database.

    A violated constraint and a wrong value are bugs of the program: they are raised unchanged, and so is `but`.
    """
    try:
        yield
    except but:
        raise
    except ERRORS as error:
        code = getattr(error, "sqlstate", None) or ""
        if code[:2] in _BUGS and code not in (*_REASONS, *_NO_TABLES):
            # The server tells values and whole rows, with people's words in them, which no log may hold.
            error.args = (str(error.args[0]).partition(":")[0], *error.args[1:])
            if isinstance(error, asyncpg.PostgresError):
                error.detail = None
            raise
        raise failure(name, error) from error


def failure(name: str, error: BaseException) -> StoreError:
    """What `error` means for the operator."""
    code = getattr(error, "sqlstate", None) or ""
    message = str(error.args[0] if error.args and code else error) or type(error).__name__
    if code in _NO_TABLES:
        return StoreError(name, "its tables are missing or outdated", "run `relay db upgrade`")
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return StoreUnavailable(name, "the server does not answer in time", _OTHER[1])
    if isinstance(error, ssl.SSLError):
        return StoreUnavailable(name, f"no encrypted connection ({message})", "correct sslmode in [store] url")
    if isinstance(error, OSError):
        return StoreUnavailable(
            name, f"the server cannot be reached ({_why_not(error)})", "start it, or correct [store] url"
        )
    if isinstance(error, asyncpg.ClientConfigurationError):
        return StoreUnavailable(
            name, f"how to connect is not said as it should be ({message.splitlines()[0]})", "correct [store] url"
        )
    if type(error) in _OF_THE_LINE:
        # The library tells how it is built: "cannot switch to state 12; another operation (2) is in progress".
        _log.debug("connection lost", store=name, error=message)
        return StoreUnavailable(name, *_REASONS["08"])
    if isinstance(error, _OF_THE_LINE):
        code = "08"
    reason, remedy = _REASONS.get(code) or _REASONS.get(code[:2]) or _OTHER
    return StoreUnavailable(name, f"{reason} ({message})", remedy)


# An address that was tried; where there are several, also why in vain: "[Errno 111] Connect call failed (...)"
_TRIED = re.compile(r"(?:\[Errno (\d+)\] )?Connect call failed \('([^']+)', (\d+)")


def _why_not(error: OSError) -> str:
    """Why nothing was reached, and where: asyncio writes Python's own form of an address."""
    tried = _TRIED.findall(str(error))
    if not tried:
        return error.strerror or str(error) or type(error).__name__
    number = error.errno or int(tried[0][0] or 0)
    places = " and ".join(f"{host}, port {port}" for _, host, port in dict.fromkeys(tried))
    return f"{os.strerror(number).lower()}: {places}"


def is_lost(error: BaseException) -> bool:
    """Whether `error` says that the connection is no longer there, rather than that a statement failed."""
    code = getattr(error, "sqlstate", None) or ""
    return isinstance(error, (OSError, *_OF_THE_LINE)) or (code[:2] in ("08", "57") and code != "57014")
