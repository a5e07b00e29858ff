"""Files: read from the homeserver (decrypted where necessary) and uploaded to it."""
