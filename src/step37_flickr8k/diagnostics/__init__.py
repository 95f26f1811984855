"""What an operator asks: `doctor`, `status`, `preview`. They change nothing in the cache directory.

`doctor` of a cold cache tries the file system with small files, which it deletes.

- `doctor`: all checks in their order.
- `rank_checks`, `version_checks`, `network_checks`, `node_checks`: the checks.
- `finding`: what a check found; `doctor_text`: findings on a terminal.
- `memory`: the memory that this process may use.
- `status`: what a cache directory holds. - `status_text`: the same for people.
- `preview`: the samples of a warm cache as a page and as an image.
"""
