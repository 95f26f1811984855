"""The documents, compared with the code and run."""
