"""`relay init`: asks for what the relay needs, checks each answer, and writes relay.toml."""

import getpass
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.commands import ConfigOption, invocation_of
from relay.cli.common import run_async, without_settings
from relay.cli.setup.asking import Answers, Asker, Question, Terminal, heading, say
from relay.cli.setup.check import check, print_finding
from relay.cli.setup.pairing import Choice, choose_pairs, declared_pairs
from relay.errors import ConfigurationError, DeliveryError, RelayError

if TYPE_CHECKING:
    from relay.adapters.matrix.api.session import StoredSession
    from relay.setup import Look

_PORTAL = "https://discord.com/developers/applications"
HELP = """Ask for what the relay needs, check each answer, and write relay.toml.

The bot's token, the Matrix account, and which channels and rooms belong together: those that are called alike are \
offered. Nothing is written before the end, and nothing is overwritten without a question. Then `relay check` looks \
at all of it.

Without a terminal: --answers names a TOML file with discord_token, matrix_account, matrix_password or \
matrix_access_token (each secret also as …_file), and where wanted homeserver_url, discord_api_url, suggested ("all", \
"none", or numbers), pairs ([["CHANNEL", "#room:server"], …]), nsfw ("none": which of the rooms that are paired with \
age-restricted channels are for adults, too), secret_files (true), overwrite (false), and go_on (false; true writes \
relay.toml although something is wrong)."""

# Where deploy/Dockerfile and deploy/relay.service have the file.
_OF_THE_IMAGE, _OF_THE_UNIT = Path("/etc/relay/relay.toml"), Path("/var/lib/relay/relay.toml")
_OVERWRITE = "overwrite"
_ANSWERS = (
    "discord_token",
    "discord_api_url",
    "matrix_account",
    "homeserver_url",
    "matrix_password",
    "matrix_access_token",
    "suggested",
    "pairs",
    "nsfw",
    "secret_files",
    _OVERWRITE,
    "go_on",
)


def init(
    context: typer.Context,
    answers: Annotated[
        Path | None, typer.Option("--answers", metavar="FILE", help="Ask nobody: a TOML file has the answers.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """See `HELP`."""
    from relay.config.settings import locate

    without_settings()
    path = locate(config or invocation_of(context).config, os.environ)
    asker: Asker
    if answers is not None:
        asker = Answers(answers, _ANSWERS)
    elif sys.stdin.isatty():
        asker = Terminal()
    else:
        raise ConfigurationError.of(
            "standard input", "is no terminal, so nobody can answer", "give the answers with --answers FILE"
        )
    try:
        written = _Setup(asker, path).run()
    except DeliveryError as error:
        say(f"{error}. Nothing was written.", sign="✗")
        raise typer.Exit(1) from None
    status = 0
    heading("relay check")
    try:
        check(context, config=written)
    except typer.Exit as exit_:
        status = exit_.exit_code
    next_ = commands_after(written, os.environ, sys.argv[0])
    if status == 0:
        say("The relay can start:")
    else:
        say("Mend what is marked ✗, look again, and then start the relay:")
        typer.echo(f"  {next_.check}")
    # On a line of its own, however long, to be copied.
    typer.echo(f"  {next_.start}")
    if next_.otherwise:
        say(next_.otherwise)
    raise typer.Exit(status)


@dataclass(frozen=True, slots=True)
class Commands:
    """What the operator types after `relay init`."""

    check: str
    start: str
    # Who has to type something else to start it; "" if nobody has.
    otherwise: str = ""


def commands_after(config: Path, environ: Mapping[str, str], program: str) -> Commands:
    """What to type for the configuration that was written, where it was written. `program`: how this one was called."""
    from relay.config.settings import locate

    path = config.absolute()
    if path == _OF_THE_IMAGE and environ.get("RELAY_CONFIG") == str(path):
        otherwise = "Without Compose: docker run -d, with the same image and volumes."
        return Commands("docker compose run --rm relay check", "docker compose up -d", otherwise)
    found = shutil.which("relay", path=environ.get("PATH", ""))
    same = found is not None and os.path.realpath(found) == os.path.realpath(program)
    relay = "relay" if same else shlex.quote(program) if Path(program).name == "relay" else f"{sys.executable} -m relay"
    option = "" if locate(None, environ).absolute() == path else f" --config {shlex.quote(str(config))}"
    run = f"{relay} run{option}"
    if path == _OF_THE_UNIT:
        otherwise = f"That is for root, once deploy/relay.service is installed. Without systemd: {run}"
        return Commands(f"{relay} check{option}", "systemctl enable --now relay", otherwise)
    return Commands(f"{relay} check{option}", run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """An account that was looked at."""

    # With its secret.
    settings: "Any"
    look: "Look"


@dataclass(slots=True)
class _Setup:
    """One run of the questions."""

    asker: Asker
    path: Path
    # What is there, and may be overwritten.
    _replaced: set[Path] = field(init=False, default_factory=set)
    # Made with a password, each with a device on the account.
    _logins: "list[StoredSession]" = field(init=False, default_factory=list)

    def run(self) -> Path:
        """Ask everything, and write the file; its path."""
        if not self.path.parent.is_dir():
            raise ConfigurationError.of(
                str(self.path), "is in a folder that does not exist", f"create {self.path.parent}"
            )
        # Not at the end: a password would have been typed, and a device made, for nothing.
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            what = f"cannot be written: {_user()} may not write in {self.path.parent}"
            remedy = "run it as the user whose folder that is, or name a file in another one with --config"
            if self.path == _OF_THE_IMAGE:
                remedy = f"outside the container, sudo chown -R {os.geteuid()}:{os.getegid()} config"
            raise ConfigurationError.of(str(self.path), what, remedy)
        say(f"This writes {self.path}, in four steps. Nothing is written before the end; Ctrl-C leaves at any time.")
        if not self._may_replace([self.path]):
            what = "It" if self.asker.present else f"{self.path} exists, and"
            say(f"{what} stays as it is. `relay pairs add` adds pairs to a file; --config names another one.")
            raise typer.Exit(1)
        used = ""
        try:
            discord = self._discord()
            matrix = self._matrix()
            pairs = self._pairs(discord, matrix)
            self._write(discord, matrix, pairs)
            used = matrix.settings.access_token.get_secret_value()
        finally:
            self._log_out([made for made in self._logins if made.access_token != used])
        return self.path

    def _log_out(self, unused: "Sequence[StoredSession]") -> None:
        """Take back the logins whose token is written nowhere: each try would leave a device on the account."""
        from relay import setup

        for made in unused:
            if run_async(setup.log_out(made)):
                say(f"{made.user_id} is logged out again: the device {made.device_id} is gone.")
            else:
                words = f"the homeserver did not log the device {made.device_id} out, which nobody uses now"
                say(f"{words}: end that session of {made.user_id} in a client.", sign="✗")

    def _may_replace(self, files: Sequence[Path]) -> bool:
        """Whether nothing is there, or the operator lets it be overwritten."""
        there = [file for file in files if file.exists()]
        what = f"{' and '.join(map(str, there))} {'exists' if len(there) == 1 else 'exist'}"
        words = f"{what}. Overwrite {'it' if len(there) == 1 else 'them'} at the end?"
        if there and not self.asker.agrees(Question(key=_OVERWRITE, words=words, default="no")):
            return False
        self._replaced.update(there)
        return True

    # --- 1: Discord ---------------------------------------------------------------------------------------

    def _discord(self) -> _Account:
        from relay import setup
        from relay.config.mistakes import problem_with, validated
        from relay.config.settings import DISCORD_API, DiscordSettings

        heading("1 of 4  The bot on Discord")
        say(f"Its token: {_PORTAL}, your application (or a new one), Bot, Reset Token. It is not shown here.", indent=2)
        # Only a file or the environment names another server.
        url = os.environ.get("RELAY_DISCORD__API_URL", DISCORD_API)
        if not self.asker.present:
            url = self.asker.ask(Question(key="discord_api_url", words="Address of Discord's API", default=url))
        then = "paste it here" if self.asker.present else "write it to discord_token in the file of answers"
        look_at = partial(setup.look_at_discord, with_new_token=then)
        while True:
            question = Question(key="discord_token", words="Token", secret=True)
            token = self.asker.ask(question, lambda it: problem_with(DiscordSettings, {"token": it}))
            settings = validated(DiscordSettings, {"token": token, "api_url": url})
            look = self._until_well(partial(look_at, settings))
            if look is not None:
                return _Account(settings=settings, look=look)

    def _until_well(self, take: Callable[[], "Coroutine[Any, Any, Look]"]) -> "Look | None":
        """The look at an account once nothing is wrong, or the operator goes on; None if its token is refused."""
        while True:
            look = run_async(take())
            for finding in look.findings:
                print_finding(finding)
            if look.well:
                return look
            if not look.accepted:
                if self.asker.present:
                    return None
                raise typer.Exit(1)
            if not self.asker.present:
                if self.asker.agrees(Question(key="go_on", words="Go on all the same?", default="no")):
                    return look
                say("Nothing was written.")
                raise typer.Exit(1)
            question = Question(key="go_on", words="Enter looks again; write “go on” to do it later", default="again")
            if self.asker.ask(question).casefold() == "go on":
                return look

    # --- 2: Matrix ----------------------------------------------------------------------------------------

    def _matrix(self) -> _Account:
        from relay import setup
        from relay.config.mistakes import problem_with, validated
        from relay.config.settings import MatrixSettings

        heading("2 of 4  The account on Matrix")
        say("One made for the relay, on any homeserver, like @relay:example.org.", indent=2)
        unfinished = {"homeserver_url": "https://example.org", "access_token": "x"}
        user = self.asker.ask(
            Question(key="matrix_account", words="Account"),
            lambda it: problem_with(MatrixSettings, {**unfinished, "user_id": it}),
        )
        url = self._homeserver(user)
        again = "give another token, or the password; if that is not the account, leave with Ctrl-C and begin again"
        then = again if self.asker.present else "correct matrix_account or matrix_access_token in the file of answers"
        look_at = partial(setup.look_at_matrix, with_new_token=then)
        while True:
            token = self._matrix_token(url, user)
            values = {"homeserver_url": url, "user_id": user, "access_token": token}
            settings = validated(MatrixSettings, values)
            look = self._until_well(partial(look_at, settings))
            if look is not None:
                return _Account(settings=settings, look=look)

    def _homeserver(self, user: str) -> str:
        from relay import setup
        from relay.config.mistakes import problem_with
        from relay.config.settings import MatrixSettings

        found = None
        if self.asker.present:
            found = run_async(setup.find_homeserver(user))
            if found is not None:
                say(f"its homeserver is at {found}", sign="✓")
                return found
            say(f"Its homeserver is not found under {user.partition(':')[2]}.")

        def wrong(url: str) -> str | None:
            others = {"user_id": user, "access_token": "x"}
            problem = problem_with(MatrixSettings, {**others, "homeserver_url": url})
            return problem or run_async(setup.homeserver_problem(url.rstrip("/"), user))

        question = Question(key="homeserver_url", words="Address of the homeserver, like https://matrix.example.org")
        if not self.asker.present:
            question = Question(
                key="homeserver_url",
                words=question.words,
                default=run_async(setup.find_homeserver(user)) or f"https://{user.partition(':')[2]}",
            )
        return self.asker.ask(question, wrong).rstrip("/")

    def _matrix_token(self, url: str, user: str) -> str:
        """An access token: the operator's, or one that a login with a password gives."""
        from relay import setup
        from relay.config.mistakes import problem_with
        from relay.config.settings import MatrixSettings

        ways = {"p": "password", "t": "access_token"}

        def token_problem(token: str) -> str | None:
            return problem_with(MatrixSettings, {"homeserver_url": url, "user_id": user, "access_token": token})

        if not self.asker.present:
            if isinstance(self.asker, Answers) and self.asker.has("matrix_access_token"):
                return self.asker.ask(Question(key="matrix_access_token", words="", secret=True), token_problem)
            password = self.asker.ask(Question(key="matrix_password", words="", secret=True))
            remedy = "correct matrix_account or matrix_password in the file of answers"
            self._logins.append(run_async(setup.log_in(url, user, password, refused=remedy)))
            return self._logins[-1].access_token
        say("Its password is used once, now, to get an access token; only that is kept.", indent=2)
        while True:
            question = Question(key="login", words="A password (p), or an access token (t)?", default="p")
            way = self.asker.ask(question, lambda it: None if it[:1].casefold() in ways else "Write p or t.")
            if way[:1].casefold() == "t":
                return self.asker.ask(
                    Question(key="matrix_access_token", words="Access token", secret=True), token_problem
                )
            password = self.asker.ask(Question(key="matrix_password", words="Password", secret=True))
            try:
                remedy = f"write it again; if {user} is not the account, leave with Ctrl-C and begin again"
                made = run_async(setup.log_in(url, user, password, refused=remedy))
            except RelayError as error:
                say(f"{error}.", sign="✗")
                continue
            self._logins.append(made)
            say(f"logged in, with a device of its own: {made.device_id}", sign="✓")
            return made.access_token

    # --- 3: the pairs -------------------------------------------------------------------------------------

    def _pairs(self, discord: _Account, matrix: _Account) -> "list[Choice]":
        from relay import setup

        heading("3 of 4  Which channels and rooms belong together")
        rooms = matrix.look.channels
        while not rooms and self.asker.present:
            say(
                f"{matrix.settings.user_id} is in no room. Invite it into the rooms (in Element: the room's menu,"
                " Invite), or go on: rooms that anybody may join can be named by their alias.",
                indent=2,
            )
            question = Question(key="go_on", words="Enter looks again; write “go on”", default="again")
            if self.asker.ask(question).casefold() == "go on":
                break
            rooms = run_async(setup.look_at_matrix(matrix.settings)).channels
        return choose_pairs(
            self.asker,
            discord.look.channels,
            rooms,
            lambda alias: run_async(setup.alias_problem(matrix.settings, alias)),
        )

    # --- 4: the file --------------------------------------------------------------------------------------

    def _write(self, discord: _Account, matrix: _Account, pairs: "Sequence[Choice]") -> None:
        from relay.config.editing import write_private
        from relay.config.loading import load
        from relay.config.settings import DISCORD_API
        from relay.config.template import Account, DeclaredPair, relay_toml

        heading("4 of 4  The file")
        count = {0: "no pair yet", 1: "one pair"}.get(len(pairs), f"{len(pairs)} pairs")
        say(f"{self.path}, with {count}.", indent=2)
        folder = Path("secrets")
        secrets = {
            folder / "discord_token": discord.settings.token.get_secret_value(),
            folder / "matrix_access_token": matrix.settings.access_token.get_secret_value(),
        }
        apart = self.asker.agrees(
            Question(
                key="secret_files", words=f"Keep both tokens in files of their own, below {folder}/?", default="yes"
            )
        )
        if apart and not self._may_replace([self.path.parent / name for name in secrets]):
            if not self.asker.present:
                say(f"A token is in {folder}/ already, and stays as it is: overwrite = true, or secret_files = false.")
                raise typer.Exit(1)
            # Whoever has answered everything does not have to begin again.
            say(f"Nothing changes there: both tokens go into {self.path} itself.")
            apart = False
        keys = ("token", "access_token")
        written = [
            (f"{key}_file", str(name)) if apart else (key, secret)
            for key, (name, secret) in zip(keys, secrets.items(), strict=True)
        ]
        api_url = discord.settings.api_url
        text = relay_toml(
            Account(
                name=discord.look.name,
                settings={} if api_url == DISCORD_API else {"api_url": api_url},
                secret_key=written[0][0],
                secret=written[0][1],
            ),
            Account(
                name=matrix.look.name,
                settings={"homeserver_url": matrix.settings.homeserver_url, "user_id": matrix.settings.user_id},
                secret_key=written[1][0],
                secret=written[1][1],
            ),
            [
                DeclaredPair(about=about, settings=pair, topic=choice.topic)
                for choice, (about, pair) in zip(pairs, declared_pairs(pairs), strict=True)
            ],
        )
        try:
            with ExitStack() as undo:
                for name, secret in secrets.items() if apart else ():
                    file = self.path.parent / name
                    if not file.exists():
                        undo.callback(file.unlink, missing_ok=True)
                    write_private(file, f"{secret}\n", replace=file in self._replaced)
                # What it says is checked before it is there.
                load(self.path, os.environ, text)
                write_private(self.path, text, replace=self.path in self._replaced)
                undo.pop_all()
        except OSError as error:
            reason = f"cannot be written: {(error.strerror or type(error).__name__).lower()}"
            raise ConfigurationError.of(
                str(error.filename or self.path), reason, "let your user write there"
            ) from error
        say(f"{self.path} is written.", sign="✓")
        say(f"Only {_user()} may read it and the tokens: the daemon has to run as that user.", indent=2)


def _user() -> str:
    """Who runs this. A container may be given a number that has no name there."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"the user with the ID {os.getuid()}"
