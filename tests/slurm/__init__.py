"""The SLURM scripts on a real cluster: ``make test-slurm``."""
