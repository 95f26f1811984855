"""Processes with limits, in which what strangers published is parsed: images and Parquet.

They have little memory and time, no privileges to gain, and none of the job's secrets. What such a
process dies of is its input's problem, not the job's.

- `memory`: the memory that this process and its children may use.
- `budget`: how much of it one input may take.
- `process`: start such a process, with the environment that it may see.
- `limits`: what the process itself sets, at its start and for each input.
"""
