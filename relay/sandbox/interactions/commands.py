"""Application commands: what their definitions may hold, and the registry of them.

https://docs.discord.com/developers/interactions/application-commands
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from relay.sandbox.errors import ApiError
from relay.sandbox.messages.forms import Form
from relay.sandbox.world.models import Application, Command, Json
from relay.sandbox.world.state import State

CHAT_INPUT, USER, MESSAGE = 1, 2, 3
SUB_COMMAND, SUB_COMMAND_GROUP = 1, 2
STRING, INTEGER, BOOLEAN, NUMBER = 3, 4, 5, 10
CREATES_A_DAY = 200
MAX_SIZE = 8000
_MOST = {CHAT_INPUT: 100, USER: 15, MESSAGE: 15}
_DAY = 86_400
_FOLDERS = frozenset({SUB_COMMAND, SUB_COMMAND_GROUP})
_WITH_CHOICES = frozenset({STRING, INTEGER, NUMBER})
# The documented pattern is `^[-_'\p{L}\p{N}\p{sc=Deva}\p{sc=Thai}]{1,32}$`; the marks of the two scripts are these.
_MARKS = re.compile("[\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")


class Commands:
    """Every application's commands, global and of guilds."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._creates: dict[tuple[int, int | None], list[float]] = {}

    def of(self, app: Application, guild_id: int | None) -> list[Command]:
        """The commands of one scope: a guild's, or the global ones."""
        return [command for command in app.commands.values() if command.guild_id == guild_id]

    def put(self, app: Application, guild_id: int | None, definition: Json) -> tuple[Command, bool]:
        """Create a command, or overwrite the one of the same type and name; and whether it is new."""
        found = self._same(app, guild_id, definition)
        if found is not None:
            self.change(found, definition)
            return found, False
        self._check_room(app, guild_id, [definition])
        return self._create(app, guild_id, definition), True

    def overwrite(self, app: Application, guild_id: int | None, definitions: Sequence[Json]) -> list[Command]:
        """Make these the only commands of a scope. Those that are there already keep their IDs."""
        kept = [self._same(app, guild_id, definition) for definition in definitions]
        new = [definition for definition, found in zip(definitions, kept, strict=True) if found is None]
        ids = {found.id for found in kept if found is not None}
        gone = [command for command in self.of(app, guild_id) if command.id not in ids]
        self._check_room(app, guild_id, new, without=len(gone))
        for command in gone:
            del app.commands[command.id]
        result = []
        for definition, found in zip(definitions, kept, strict=True):
            if found is not None:
                self.change(found, definition)
            result.append(found if found is not None else self._create(app, guild_id, definition))
        return result

    def change(self, command: Command, definition: Json) -> None:
        """Give a command another definition; its version rises only if something is different."""
        if command.definition != definition:
            command.definition, command.version = definition, self.state.snowflakes.next()

    def delete(self, app: Application, command: Command) -> None:
        """Delete a command."""
        del app.commands[command.id]

    def _same(self, app: Application, guild_id: int | None, definition: Json) -> Command | None:
        key = definition["type"], definition["name"]
        commands = self.of(app, guild_id)
        return next((one for one in commands if (one.definition["type"], one.definition["name"]) == key), None)

    def _create(self, app: Application, guild_id: int | None, definition: Json) -> Command:
        number = self.state.snowflakes.next()
        command = app.commands[number] = Command(number, app.id, guild_id, self.state.snowflakes.next(), definition)
        self._creates.setdefault((app.id, guild_id), []).append(self.state.clock())
        return command

    def _check_room(self, app: Application, guild_id: int | None, new: Sequence[Json], without: int = 0) -> None:
        for kind, most in _MOST.items():
            count = sum(command.definition["type"] == kind for command in self.of(app, guild_id)) - without
            if count + sum(definition["type"] == kind for definition in new) > most:
                raise ApiError(400, 30032, f"Maximum number of application commands reached ({most})")
        recent = [at for at in self._creates.get((app.id, guild_id), []) if at > self.state.clock() - _DAY]
        self._creates[app.id, guild_id] = recent
        if len(recent) + len(new) > CREATES_A_DAY:
            text = f"Max number of daily application command creates has been reached ({CREATES_A_DAY})"
            raise ApiError(400, 30034, text)


def render_command(command: Command, *, localised: bool = True) -> Json:
    """https://docs.discord.com/developers/interactions/application-commands#application-command-object.

    `localised`: with the dictionaries of translations.
    """
    body: Json = {
        "id": str(command.id),
        "application_id": str(command.application_id),
        "version": str(command.version),
    } | command.definition
    if command.guild_id is not None:
        body["guild_id"] = str(command.guild_id)
    if not localised:
        body = {name: value for name, value in body.items() if not name.endswith("_localizations")}
    return body


# --- Definitions ------------------------------------------------------------------------------------------


def read_command(form: Form, *, in_guild: bool, before: Json | None = None) -> Json:
    """A definition as Discord keeps it. `before`: what stays where an edit names nothing. Mistakes are in the form."""
    if before is not None:
        form = Form(before | form.body, form.path, form.report)
    kind = form.integer("type", least=1, most=3, default=CHAT_INPUT)
    body: Json = {"type": kind, "name": _name(form, plain=kind in {USER, MESSAGE})}
    body["name_localizations"] = _translations(form, "name_localizations")
    if kind not in {USER, MESSAGE}:
        body["description"] = form.text("description", least=1, most=100, required=True)
    else:
        body["description"] = ""
        if form.body.get("description") or form.body.get("options"):
            message = "Context menu commands cannot have a description or options"
            form.mistake("", "APPLICATION_COMMAND_CONTEXT_MENU_INVALID", message)
    body["description_localizations"] = _translations(form, "description_localizations")
    body["default_member_permissions"] = _permissions(form)
    body["nsfw"] = form.flag("nsfw")
    body["contexts"], body["integration_types"] = None, [0]
    if not in_guild:
        body["dm_permission"] = form.flag("dm_permission", default=True)
        body["contexts"] = _numbers(form, "contexts", most=2)
        body["integration_types"] = _numbers(form, "integration_types", most=1) or [0]
    options = _options(form, kind) if kind == CHAT_INPUT else []
    if options:
        body["options"] = options
    if _size(body) > MAX_SIZE:
        form.mistake("", "APPLICATION_COMMAND_TOO_LARGE", f"Command exceeds maximum size ({MAX_SIZE})")
    return body


def _name(form: Form, *, plain: bool) -> str | None:
    name = form.text("name", least=1, most=32, required=True)
    if name is not None and not plain and not valid_name(name):
        form.mistake("name", "APPLICATION_COMMAND_INVALID_NAME", "Command name is invalid")
    return name


def valid_name(name: str) -> bool:
    """Whether a slash command or an option may have this name: letters in lower case, digits, `-`, `_` and `'`."""
    return name == name.lower() and all(
        char in "-_'" or unicodedata.category(char)[0] in "LN" or _MARKS.match(char) is not None for char in name
    )


def _translations(form: Form, field: str) -> Any:
    value = form.body.get(field)
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        form.mistake(field, "DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType")
    return value


def _permissions(form: Form) -> str | None:
    text = form.text("default_member_permissions", most=20)
    if text is not None and not (text.isascii() and text.isdigit()):
        form.mistake("default_member_permissions", "NUMBER_TYPE_COERCE", f'Value "{text}" is not int.')
    return text


def _numbers(form: Form, field: str, *, most: int) -> list[int] | None:
    if form.body.get(field) is None:
        return None
    values = list(form.items(field, most=most + 1))
    for index, value in enumerate(values):
        if isinstance(value, bool) or value not in range(most + 1):
            choices = f"({', '.join(map(str, range(most + 1)))})"
            form.mistake(f"{field}.{index}", "BASE_TYPE_CHOICES", f"Value must be one of {choices}.")
    return values


def _options(form: Form, parent: int, depth: int = 0) -> list[Json]:
    found: list[Json] = []
    optional = False
    for entry in form.forms("options", most=25):
        option = _option(entry, depth)
        if any(one["name"] == option["name"] for one in found):
            entry.mistake("name", "APPLICATION_COMMAND_OPTIONS_NAME_INVALID", "Option name already exists")
        if option.get("required") and optional:
            message = "Required options must be placed before non-required options"
            entry.mistake("", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", message)
        optional = optional or not option.get("required")
        found.append(option)
    kinds = {one["type"] for one in found}
    if depth and parent == SUB_COMMAND_GROUP and kinds - {SUB_COMMAND}:
        form.mistake("options", "APPLICATION_COMMAND_OPTIONS_TYPE_INVALID", "A group holds sub-commands only")
    elif kinds & _FOLDERS and (kinds - _FOLDERS or (depth and parent == SUB_COMMAND)):
        message = "Sub-command and sub-command group option types are mutually exclusive to all other types"
        form.mistake("options", "APPLICATION_COMMAND_OPTIONS_TYPE_INVALID", message)
    return found


def _option(form: Form, depth: int) -> Json:
    """One option. What is false or empty is left out, as Discord leaves it out of its answers."""
    kind = form.integer("type", least=1, most=11)
    body: Json = {"type": kind, "name": _name(form, plain=False)}
    body["description"] = form.text("description", least=1, most=100, required=True)
    for field in ("name_localizations", "description_localizations"):
        if _translations(form, field) is not None:
            body[field] = form.body[field]
    if kind in _FOLDERS:
        if form.flag("required"):
            message = "Sub-commands and sub-command groups cannot be required"
            form.mistake("required", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", message)
        nested = _options(form, kind, depth + 1) if depth < 2 else []
        return body | ({"options": nested} if nested else {})
    optional: Json = {"required": form.flag("required"), "autocomplete": form.flag("autocomplete")}
    if kind in _WITH_CHOICES:
        optional["choices"] = [_choice(entry, kind) for entry in form.forms("choices", most=25)]
    if kind == STRING:
        for field, least in (("min_length", 0), ("max_length", 1)):
            if form.body.get(field) is not None:
                body[field] = form.integer(field, least=least, most=6000)
    if kind in {INTEGER, NUMBER}:
        for field in ("min_value", "max_value"):
            if form.number(field) is not None:
                body[field] = form.body[field]
    if optional["autocomplete"] and optional.get("choices"):
        message = "Autocomplete cannot be enabled with choices"
        form.mistake("autocomplete", "APPLICATION_COMMAND_OPTIONS_AUTOCOMPLETE_INVALID", message)
    return body | {field: value for field, value in optional.items() if value}


def _choice(form: Form, kind: int) -> Json:
    value = form.body.get("value")
    fits = isinstance(value, str) if kind == STRING else isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or (isinstance(value, str) and not 1 <= len(value) <= 100):
        form.mistake("value", "APPLICATION_COMMAND_OPTIONS_CHOICE_VALUE_INVALID", f'Value "{value}" is invalid.')
    return {"name": form.text("name", least=1, most=100, required=True), "value": value}


def _size(body: Json) -> int:
    """How many characters count towards the limit of a definition."""
    own = len(str(body.get("name") or "")) + len(str(body.get("description") or "")) + len(str(body.get("value") or ""))
    return own + sum(_size(part) for part in (*body.get("options", ()), *body.get("choices", ())))


def duplicates(definitions: Sequence[Json]) -> Iterator[int]:
    """Which of these have the type and name of an earlier one."""
    seen = set()
    for index, definition in enumerate(definitions):
        key = definition["type"], definition["name"]
        if key in seen:
            yield index
        seen.add(key)
