"""How the schema comes to be and changes; ``upgrade`` is all that others call."""
