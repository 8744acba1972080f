"""Text: from bytes, HTML and PDF to characters, and the check that they can be read."""
