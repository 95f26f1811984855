"""Tests of the package `dataset`."""
