"""Tests of the package `diagnostics`."""
