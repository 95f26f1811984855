"""The local Hub itself."""
