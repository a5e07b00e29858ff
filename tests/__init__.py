"""The tests; `tests/unit` mirrors `relay/`, folder by folder."""
