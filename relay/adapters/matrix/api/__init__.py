"""The client-server API: one client over nio's, the session, and redirected downloads."""
