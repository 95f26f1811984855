"""The use cases: warm the cache, plan, verify and repair."""
