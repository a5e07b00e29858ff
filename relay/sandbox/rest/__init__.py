"""The REST API and the CDN. Imports `gateway` for the address and the session limits, `messages` and `world`."""
