"""Tests of the package `cache`."""
