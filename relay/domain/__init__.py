"""What the relay talks about: plain frozen values, no I/O. Standard library only; everything may import it."""
