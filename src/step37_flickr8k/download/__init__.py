"""Bytes into verified temporary files, and from there into the cache.

- `planner`: compares the Hub, the cache directory and the selection. - `downloader`: the work of
whoever holds the lease: fetch, publish, ready record last. - `files`: a request for each file;
`bulk` and `parquet`: the Parquet conversion. - `landing`: batches of files that have arrived;
`workers`: the processes that write and decode them. - `loop`: the event loop of a download.
"""
