"""The run report and progress, and how both are shown: on a terminal, in a log, as JSON, as a page.

- `model`: the report of a run. - `recorder`: progress over time, for the report; `progress`:
progress for people. - `text`, `html`: the report on a terminal and as a page; `page`, `tables`,
`visible`: what they share.
"""
