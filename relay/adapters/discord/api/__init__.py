"""The REST API: one client, and the rate limits that it keeps."""
