"""The Hub: its API, its files, its rate limit, and the proxies before it.

- `api`: the commit, the files of a commit, a single file.
- `http`: the HTTP client of a download.
- `source`: where the bytes come from, what came of it, and what may be tried again.
- `proxies`: the one reading of proxies.
"""
