"""What exists: guilds, channels, members, messages, files, permissions, and who is told what. Imports no other room."""
