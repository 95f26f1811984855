"""What builds, installs and releases the project."""
