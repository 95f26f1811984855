"""Tests of the package `download`."""
