"""The client-server API: requests, the login, and redirected downloads. Only here is nio used."""
