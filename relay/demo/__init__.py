"""`relay demo`: a Discord sandbox, a real homeserver, the real daemon between them, and a page with both sides."""
