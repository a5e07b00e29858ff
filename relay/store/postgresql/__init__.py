"""What only PostgreSQL needs. `connections`: how the server is reached, and its errors. `transactions`: the writer and
the readers; `pools` and `shared`: which connections they have. `lease`: one daemon per database, by the database's
clock. `schema`: migrations under a lock. `workers`: who shares the tenants.

It is imported where `[store] url` names PostgreSQL, and needs asyncpg (the extra `postgres`).
"""
