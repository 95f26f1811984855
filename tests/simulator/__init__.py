"""The protocol's state machines in a simulated cluster: virtual time, and every fault at will.

- `machines`: a machine as a value: its local state, and what it does on an event.
- `answers`: what an action is sent, and how a rank ended.
- `cluster`: ranks, a store, a clock; which steps are possible, and what each of them leads to.
- `reduction`: which of these are explored; the others lead to nothing else.
- `invariants`: what must hold in every state.
- `test_exhaustive`: every order of events of two and three ranks, with up to two faults.
- `test_reduction`: what is left out there changes nothing.
- `test_random`: thousands of seeded schedules with up to 64 ranks.
- `test_scale`: 10,000 ranks, and what they ask of the store.
- `test_mutations`: each change that breaks the protocol is found.
"""
