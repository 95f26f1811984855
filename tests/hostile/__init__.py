"""Hostile data: what strangers wrote, mutated, made large, or made to look like something else."""
