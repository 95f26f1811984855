"""Tests of the package `job`."""
