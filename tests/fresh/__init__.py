"""A stranger's machine: the first two commands of the README on bare Debian directories."""
