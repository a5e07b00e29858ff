"""Application commands: https://docs.discord.com/developers/interactions/application-commands#endpoints."""

from typing import Any

from aiohttp import web

from relay.sandbox import errors
from relay.sandbox.interactions.commands import Commands, duplicates, read_command, render_command
from relay.sandbox.messages.forms import Form
from relay.sandbox.rest.api import Api, Reply
from relay.sandbox.rest.requests import Call
from relay.sandbox.world.models import Application, Command, Json

_GLOBAL = "/applications/{application_id}/commands"
_GUILD = "/applications/{application_id}/guilds/{guild_id}/commands"


class CommandRoutes:
    """`/applications/{id}/commands…` and `/applications/{id}/guilds/{id}/commands…`, but for their permissions."""

    def __init__(self, api: Api, commands: Commands) -> None:
        self.api = api
        self.commands = commands

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        add = self.api.add
        for path in (_GLOBAL, _GUILD):
            add(router, "GET", path, self.all)
            add(router, "PUT", path, self.overwrite)
            add(router, "POST", path, self.create)
            add(router, "GET", path + "/{command_id}", self.get)
            add(router, "PATCH", path + "/{command_id}", self.edit)
            add(router, "DELETE", path + "/{command_id}", self.delete)

    async def all(self, call: Call) -> Any:
        """All commands of the scope; with translations if `with_localizations` is true."""
        app, guild_id = self._scope(call)
        localised = call.switch("with_localizations")
        return [render_command(command, localised=localised) for command in self.commands.of(app, guild_id)]

    async def overwrite(self, call: Call) -> Any:
        """These and no others. Only those that are new count towards the creations of a day."""
        app, guild_id = self._scope(call)
        report: Json = {}
        listed = await call.json_list()
        definitions = [
            read_command(Form(item, str(index), report), in_guild=guild_id is not None)
            for index, item in enumerate(listed)
        ]
        for index in duplicates(definitions):
            message = "Application command names must be unique"
            errors.put_error(report, str(index), "APPLICATION_COMMANDS_DUPLICATE_NAME", message)
        if report:
            raise errors.invalid_form(report)
        return [render_command(command) for command in self.commands.overwrite(app, guild_id, definitions)]

    async def create(self, call: Call) -> Any:
        """A new command (201), or another definition of the one with that name (200)."""
        app, guild_id = self._scope(call)
        form = Form(await call.json())
        definition = read_command(form, in_guild=guild_id is not None)
        form.check()
        command, new = self.commands.put(app, guild_id, definition)
        return Reply(render_command(command), 201 if new else 200)

    async def get(self, call: Call) -> Any:
        """One command."""
        return render_command(self._command(call)[1])

    async def edit(self, call: Call) -> Any:
        """Change what the body names."""
        _, command = self._command(call)
        form = Form(await call.json())
        definition = read_command(form, in_guild=command.guild_id is not None, before=command.definition)
        form.check()
        self.commands.change(command, definition)
        return render_command(command)

    async def delete(self, call: Call) -> Any:
        """Delete a command."""
        self.commands.delete(*self._command(call))

    def _scope(self, call: Call) -> tuple[Application, int | None]:
        app = call.application()
        return app, call.guild().id if "guild_id" in call.request.match_info else None

    def _command(self, call: Call) -> tuple[Application, Command]:
        app, guild_id = self._scope(call)
        command = app.commands.get(call.id("command_id"))
        if command is None or command.guild_id != guild_id:
            raise errors.unknown("application command")
        return app, command
