"""Deliveries become requests, and the homeserver's errors the relay's."""
