"""The run report and progress, and how both are rendered: terminal, log, JSON, HTML.

- `model`: the report of a run as a model, its schema, and how it is read.
- `build`: how a run becomes its report.
- `recorder`: progress over time, for the report.
- `text`, `html`: the report on a terminal and as a page.
- `display`, `bar`: progress while a command runs, as log lines and as a bar.
- `progress`: progress as text.
- `redrawn`: lines drawn again and again.
- `page`, `tables`: pages and tables, also of other packages.

To add a field, describe it in `model.RunReport`, fill it in `build`, and show it in `text` and
`html` if a person should see it.
"""
