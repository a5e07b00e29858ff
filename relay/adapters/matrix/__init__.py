"""Matrix, through matrix-nio, which does not leave this folder."""
