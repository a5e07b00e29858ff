"""Discord's REST API: the client, its rate limits and its errors."""
