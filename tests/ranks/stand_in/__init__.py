"""Modules that stand for libraries which the test environment does without."""
