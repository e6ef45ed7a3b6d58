"""Finding the parts of a source tree that a question is about."""
