"""Tests of the container image, in real containers: `make test-image` runs them."""
