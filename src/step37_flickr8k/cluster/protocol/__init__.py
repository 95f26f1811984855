"""Rank zero first, as two state machines: what the leader and a follower do in one call.

Neither has threads, a clock or a store. Their ``steps`` yield actions, most of them a request to
a key-value store, and are sent what came of each. Whoever drives them sets ``now`` before each
step, and throws ConnectionError into them when the store is lost. So the code that runs on real
ranks (`step37_flickr8k.cluster.runner`) is the code that a simulator drives through every order of
events (``tests/simulator``). It imports nothing but the standard library and the project's errors.

- `leader`, `follower`: the machines; each reads from top to bottom.
- `actions`: what they ask for.
- `messages`: what ranks write to each other.
- `keys`: where that stands in the store, and how long silence may last.
- `call`: what a rank knows when a call begins, and has when it has ended.
"""
