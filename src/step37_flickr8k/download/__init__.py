"""Bytes into verified temporary files, and from there into the cache.

The lease's holder:

- `downloader`: plans, downloads and publishes, or repairs (`Downloader`).
- `planner`: compares the Hub, the cache directory and the selection (`Planner`).
- `conversion`: whether the images come from the Hub's Parquet conversion.
- `publisher`: final names, the manifest, and the ready record last.

Two methods of download; each takes a list of files and a function that publishes them:

- `files`: a request for each file; `fetching` imports it when it is first needed.
- `bulk`: row groups of the Parquet conversion; `parquet` finds the images in them.

To add a method, write a function like `files.fetch` and call it in `Downloader`. The setting
``fetch_mode`` (`settings.model`, `settings.options`) and the plan's `job.results.Mode` name it.

- `single_file`: one file by huggingface_hub, for the library alone.

Common to both:

- `batches`: files that have arrived, in batches for the workers.
- `open_files`: how many connections the limit of open files allows.
- `loop`: tasks side by side, and reports of progress.
- `workers`: the pool of worker processes; `worker_process`: one of them, seen from here;
  `worker`: its main program; `job_runner`: what it does; `jobs`: what it is asked.
"""
