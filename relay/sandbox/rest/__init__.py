"""The REST API and the CDN."""
