"""The Discord adapter. discord.py is used in this folder only."""
