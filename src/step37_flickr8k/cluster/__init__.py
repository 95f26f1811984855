"""Rank zero first: who this process is, and how the ranks of a job learn one outcome.

- `launcher`: rank, world size, node and run id, from the launcher's variables.
- `node`: the same among the ranks of one node.
- `share`: the entry: run a piece of work on rank 0, return its result on every rank.
- `protocol`: what rank 0 and what every other rank does in a call, as state machines.
- `runner`: drives a state machine on a real rank; `requests` to its store may block.
- `work`: the work in a thread of its own, which a rank can leave behind.
- `call`: a call as one rank makes it; the store's interface.
- `codec`: the messages' JSON, read back.
- `signing`: what ranks write, signed with the job's secret.
- `values`: results and arguments as JSON carries them; the name of a piece of work.
- `verdict`: how the call ends for all ranks; pure.
- `progress`: how far the work is: state, counts, and the tracker that it reports to.
- `stores`: the stores themselves; the only user of torch.
"""
