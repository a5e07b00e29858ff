"""Deliveries become calls of the REST API, and its errors the relay's."""
