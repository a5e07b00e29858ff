"""Files: read from Discord's CDN, attached to messages, Lottie stickers drawn as pictures."""
