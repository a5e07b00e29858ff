"""Discord's gateway: the connection, what it tells about guilds, and live events on their way to the core."""
