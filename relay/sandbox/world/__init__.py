"""Who and what exists: guilds, channels, threads, members, permissions, and how each is rendered as JSON."""
