"""Reading a request's JSON as strictly as Discord does, with its report of all mistakes at once.

https://discord.com/developers/docs/reference#error-messages
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from relay.sandbox.errors import form_error, invalid_form, put_error
from relay.sandbox.world.models import Json

MAX_SNOWFLAKE = (1 << 64) - 1


class Form:
    """One JSON object. Every reader returns the value, or a neutral one and a mistake noted; then `check`."""

    def __init__(self, body: Any, path: str = "", report: Json | None = None) -> None:
        self.report: Json = {} if report is None else report
        self.path = path
        if not isinstance(body, dict):
            self.mistake("", "DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType")
            body = {}
        self.body: Json = body

    def __contains__(self, name: str) -> bool:
        return name in self.body

    def mistake(self, name: str, code: str, message: str) -> None:
        """Note a mistake in a field; an empty name is the object itself."""
        put_error(self.report, ".".join(filter(None, (self.path, name))), code, message)

    def check(self) -> None:
        """Raise the report, if there is anything in it."""
        if self.report:
            raise invalid_form(self.report)

    def text(self, name: str, *, most: int, least: int = 0, required: bool = False) -> str | None:
        """A string of `least` to `most` characters; None when absent or null."""
        value = self._value(name, required=required)
        if value is None:
            return None
        if not isinstance(value, str):
            self.mistake(name, "STRING_TYPE_CONVERT", f'Could not interpret "{value}" as string.')
            return None
        if not least <= len(value) <= most:
            if least and least != most:
                self.mistake(name, "BASE_TYPE_BAD_LENGTH", f"Must be between {least} and {most} in length.")
            else:
                self.mistake(name, "BASE_TYPE_MAX_LENGTH", f"Must be {most} or fewer in length.")
        return value

    def integer(self, name: str, *, least: int = 0, most: int, default: int = 0) -> int:
        """A whole number within bounds."""
        value = self._value(name)
        if value is None:
            return default
        try:
            number = int(value) if not isinstance(value, (bool, list, dict)) else None
        except ValueError:
            number = None
        if number is None:
            self.mistake(name, "NUMBER_TYPE_COERCE", f'Value "{value}" is not int.')
            return default
        if number < least:
            self.mistake(name, "NUMBER_TYPE_MIN", f"int value should be greater than or equal to {least}.")
        elif number > most:
            self.mistake(name, "NUMBER_TYPE_MAX", f"int value should be less than or equal to {most}.")
        return number

    def number(self, name: str) -> float | None:
        """A number; None when absent."""
        value = self._value(name)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        self.mistake(name, "NUMBER_TYPE_COERCE", f'Value "{value}" is not float.')
        return None

    def moment(self, name: str) -> float | None:
        """A timestamp, in seconds since 1970; None when absent."""
        value = self._value(name)
        if value is None:
            return None
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            self.mistake(name, "DATE_TIME_TYPE_PARSE", f'Could not parse "{value}". Should be ISO8601.')
            return None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.mistake(name, "BOOLEAN_TYPE_CONVERT", "Must be either true or false.")
            return default
        return value

    def snowflake(self, name: str, *, required: bool = False) -> int | None:
        """An ID; None when absent or null."""
        value = self._value(name, required=required)
        if value is None:
            return None
        parsed = parse_snowflake(value)
        if parsed is None:
            self.mistake(name, "NUMBER_TYPE_COERCE", f'Value "{value}" is not snowflake.')
        return parsed

    def snowflakes(self, name: str, *, most: int) -> list[int]:
        """A list of different IDs."""
        found: list[int] = []
        for index, value in enumerate(self.items(name, most=most)):
            parsed = parse_snowflake(value)
            if parsed is None:
                self.mistake(f"{name}.{index}", "NUMBER_TYPE_COERCE", f'Value "{value}" is not snowflake.')
            elif parsed in found:
                self.mistake(name, "SET_TYPE_ALREADY_CONTAINS_VALUE", "The set already contains this value")
            else:
                found.append(parsed)
        return found

    def items(self, name: str, *, most: int) -> Sequence[Any]:
        """A list of at most so many."""
        value = self._value(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.mistake(name, "LIST_TYPE_CONVERT", "Only iterables may be used in a ListType")
            return []
        if len(value) > most:
            self.mistake(name, "BASE_TYPE_MAX_LENGTH", f"Must be {most} or fewer in length.")
            return value[:most]
        return value

    def form(self, name: str) -> "Form | None":
        """A nested object; None when absent or null."""
        value = self._value(name)
        return None if value is None else Form(value, self._under(name), self.report)

    def forms(self, name: str, *, most: int) -> "list[Form]":
        """A list of objects."""
        return [
            Form(item, self._under(f"{name}.{index}"), self.report)
            for index, item in enumerate(self.items(name, most=most))
        ]

    def _under(self, name: str) -> str:
        return ".".join(filter(None, (self.path, name)))

    def _value(self, name: str, *, required: bool = False) -> Any:
        value = self.body.get(name)
        if value is None and required:
            self.mistake(name, "BASE_TYPE_REQUIRED", "This field is required")
        return value


def parse_snowflake(value: Any) -> int | None:
    """An ID out of a string of digits or a whole number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        return None
    number = int(value) if len(str(value)) <= 20 else -1
    return number if 0 <= number <= MAX_SNOWFLAKE else None


def path_snowflake(values: Mapping[str, str], name: str) -> int:
    """An ID out of a request's path."""
    parsed = parse_snowflake(values[name])
    if parsed is None:
        raise form_error(name, "NUMBER_TYPE_COERCE", f'Value "{values[name]}" is not snowflake.')
    return parsed
