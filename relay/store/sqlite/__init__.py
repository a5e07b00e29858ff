"""What only SQLite needs. `driver`: few trips to its thread. `engine`: how the file is opened, and its errors.
`transactions`: the writer whose transactions share commits, and the readers.
"""
