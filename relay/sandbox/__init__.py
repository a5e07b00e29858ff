"""A server that speaks Discord's API: for the demo, for tests, and for everybody who writes a bot.

It imports nothing of relay; only the demo and the tests start it.

It serves version 10 of the REST API, the gateway (versions 9 and 10, JSON, zlib-stream and zstd-stream), the CDN with
signed URLs that expire, and Discord's rate limits; it refuses what Discord refuses, with Discord's error codes. It
fetches the pictures that webhooks name, from loopback addresses only, and shows with each message what it got. There
are no voice channels, direct messages, buttons, modals, context menus, shards or audit logs. Everything is in memory.

Start it as a process (`--help` lists all options), or in a program as `async with SandboxServer() as server`:

    $ python -m relay.sandbox --port 8066 --bootstrap --print-ready
    {"url": "http://127.0.0.1:8066", "api_url": "http://127.0.0.1:8066/api/v10",
     "control_url": "http://127.0.0.1:8066/_sandbox", "gateway_url": "ws://127.0.0.1:8066",
     "world": {"guild": "1…", "bot": "1…", "token": "MT…", "channels": {"general": "1…"},
               "people": {"Ada": "1…", "Ben": "1…"}}}

`--bootstrap` makes a guild, a channel, two people and a bot, so that a bot can connect at once:

    import discord, yarl
    discord.http.Route.BASE = "http://127.0.0.1:8066/api/v10"
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL("ws://127.0.0.1:8066")
    intents = discord.Intents.default()
    intents.message_content = True
    client = discord.Client(intents=intents)

    @client.event
    async def on_message(message):
        if message.author != client.user:
            await message.channel.send(f"{message.author.display_name} says {message.content}")

    client.run("MT…")

What people do, and what goes wrong, is asked for at the control interface: `POST /_sandbox/<method>` with the arguments
as a JSON object (`GET` for `events` and `stream`). The methods are those of `Control`; in `relay.sandbox.control`,
`world` has who and what there is, `people` what they write and do, `faults` errors, outages and limits. From Python:
`relay.sandbox.client.SandboxClient`.

    $ curl localhost:8066/_sandbox/say -d '{"channel": "1…", "author": "1…", "content": "hello"}'
    $ curl "localhost:8066/_sandbox/messages" -d '{"channel": "1…"}'
    $ curl "localhost:8066/_sandbox/events?after=0&timeout=5"       # what happened; /_sandbox/stream goes on
    $ curl localhost:8066/_sandbox/use_command -d '{"channel": "1…", "user": "1…", "command": "ping"}'
    $ curl localhost:8066/_sandbox/interaction -d '{"interaction": "1…"}'       # what was answered, to them alone
    $ curl localhost:8066/_sandbox/add_fault -d '{"kind": "status", "path": "/messages$", "status": 503, "count": 2}'
    $ curl localhost:8066/_sandbox/add_gateway_fault -d '{"kind": "drop", "event": "MESSAGE_CREATE"}'
    $ curl localhost:8066/_sandbox/close_gateway -d '{"code": 4000}'
    $ curl localhost:8066/_sandbox/set_limits -d '{"factor": 0}'    # no rate limits; --limit-factor 0 from the start

Folders: `world` (what exists, and who may do what), `messages` (checking, writing and rendering them), `interactions`
(commands and their use), `gateway`, `rest` and `control`. Beside them `errors` (Discord's error codes), `faults` and
`rate_limits`; `server` puts all of it together, and `client` speaks to the control interface.
"""
