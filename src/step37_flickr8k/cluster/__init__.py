"""Rank zero first: who this process is, and how the ranks of a job learn one outcome.

- `launcher`: rank, world size, node and run id from the launcher's variables.
- `group`: the protocol between rank 0 and the other ranks, over a key-value store.
- `stores`: the stores themselves; the only user of torch.
"""
