"""The command line: one file per command, for parsing and printing only. Nothing imports it but `__main__`.

Libraries with long import times (discord.py, nio, SQLAlchemy) are imported inside the commands that need them.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from relay.cli.common import Invocation, OutputFailed, finish_output, prepare_output, print_error
from relay.errors import ConfigurationError, RelayError

BUG_STATUS = 70  # EX_SOFTWARE of sysexits.h


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status.

    0: ok. 1: a problem. 2: wrong usage or configuration. 3: another daemon holds the store. 4: the daemon cannot go on
    and says why. 70: a bug.
    """
    prepare_output()
    try:
        try:
            _run(arguments)
        finally:
            finish_output()
    except OutputFailed as error:
        print_error(error)
        sys.exit(error.exit_status)


def _run(arguments: Sequence[str] | None) -> None:
    words, config = without_option("--config", sys.argv[1:] if arguments is None else arguments)
    words, tenant = without_option("--tenant", words)
    invocation = Invocation(None if config is None else Path(config))
    try:
        if config == "":  # `--config "$FILE"` without such a variable: it would mean the folder
            raise ConfigurationError.of("--config", "is empty", "write the path of the file, or leave it out")
        if tenant is not None:
            invocation.choose(tenant)
        if words[:1] == ["run"] and set(words[1:]) <= {"--take-over", "--standby"}:
            # `--config` is known already. The daemon runs for months, without the parser in memory.
            from relay.cli.run import run_daemon

            run_daemon(invocation, take_over="--take-over" in words, standby="--standby" in words)
            sys.exit(0)
        from relay.cli.commands import command_line

        command_line()(args=words, prog_name="relay", obj=invocation)
    except OutputFailed:
        raise
    except RelayError as error:
        print_error(error, invocation.redact)
        sys.exit(error.exit_status)
    except Exception as error:  # noqa: BLE001
        # The top of the program. We format the traceback ourselves: no local variables, no secrets.
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(invocation.redact(text))
        sys.stderr.write(f"error: {type(error).__name__}: this is a bug in relay; please report the lines above\n")
        sys.exit(BUG_STATUS)


def without_option(option: str, arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without `option VALUE`, and that value: it may stand anywhere, and the last one counts.

    One without a value stays, for the parser to complain about.
    """
    words: list[str] = []
    found, place = None, 0
    while place < len(arguments):
        word = arguments[place]
        if word == "--":
            return [*words, *arguments[place:]], found
        name, equals, value = word.partition("=")
        if name == option and (equals or place + 1 < len(arguments)):
            found = value if equals else arguments[place + 1]
            place += 1 if equals else 2
        else:
            words.append(word)
            place += 1
    return words, found
