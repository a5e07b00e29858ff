"""Application commands, and their use: who used one, and how it was answered. Imports `messages` and `world`."""
