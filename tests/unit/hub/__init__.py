"""Tests of the package `hub`."""
