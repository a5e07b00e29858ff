"""Pictures that the relay makes: avatars, kept as emoji of the application, and stickers drawn for the other side."""
