"""Rank zero first: who this process is, and how the ranks of a job learn one outcome.

- `launcher`: rank, world size, node and run id, from the launcher's variables.
- `share`: the entry: run a piece of work on rank 0, return its result on every rank.
- `leader`, `follower`: what rank 0 and what every other rank does in a call.
- `verdict`: how the call ends for all ranks; pure.
- `protocol`: what they agree on: store, keys, timeouts, the call.
- `messages`: what they write to each other, as values, and its JSON.
- `progress`: how far the work is: state, counts, and the tracker that it reports to.
- `stores`: the stores themselves; the only user of torch.
"""
