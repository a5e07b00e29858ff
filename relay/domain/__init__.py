"""What the relay talks about: plain frozen values, standard library only, no I/O."""
