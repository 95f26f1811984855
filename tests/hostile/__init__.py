"""Hostile data: what strangers wrote, mutated, made to be large, or made to look like something else."""
