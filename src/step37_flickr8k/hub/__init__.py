"""The Hub: its API, its files, its rate limit, and the proxies on the way to it.

- `api`: the repository's API: the commit, the files of a commit, the addresses of files (`Hub`).
- `api_client`: requests to the API, for callers without an event loop.
- `listings`: files in the API's listings.
- `client`: the one HTTP client, for the API and for files: retries, rate limits.
- `requests`: one request after another: redirects, proxies, whose word an answer is.
- `bounds`: bytes, time and speed of what is read.
- `failures`: what a failed request means; `addresses`: which addresses are followed.
- `source`: where files are served (`Source`) and what a download did (`TransferStatistics`).
- `retry`: the one policy for requests that fail: pure functions.
- `rate_limit`: the rate limit that the Hub's headers state (`RateLimit`).
- `refusals`: what the Hub's refusals mean, as errors with a remedy.
- `proxies`: the one reading of proxies; `certificates`: the user's authorities, what isn't trusted.
- `plain_http`: secrets that others can read on the way.
- `single_file`: runs ``hf_hub_download`` in a process (`download_process`), the only user of
  huggingface_hub's own client.
- `loop`: coroutines for callers that have no event loop.
"""
