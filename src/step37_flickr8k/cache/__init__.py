"""The cache directory: what is in it, who may write to it, and when it is ready.

The only package that renames or deletes files of the cache; other packages call `CacheDirectory`.

The directory itself:

- `directory`: `CacheDirectory` publishes by rename, reads and writes the cache's own files, deletes
  what dead runs left unfinished.
- `tree`, `descriptors`: how all files are reached, by descriptors and never through a link.
- `flushing`: makes all files durable at once.
- `exclusive`: creates a file that only one process gets, by a hard link or without.
- `writing`: writes to open files with plain system calls: whole, in place, durably.
- `making`: makes directories, never through a link.
- `folding`: refuses names that the file system takes for one.
- `unfinished`: temporary files that dead runs and doctors have left.
- `scan`: lists directories, on NFS too.
- `remedies`: turns the file system's errors into what the user can do.
- `outputs`: reports and pages, which aren't of the cache but renamed, too.
- `staging`: where huggingface_hub writes a single file before it gets its name.
- `memory`: temporary files in memory, for a plan.
- `preflight`: the checks before the first byte: is it writable, is there enough space.
- `capabilities`: what the file system can't do, for `doctor`.
- `filesystem`, `linux`: what the file system below it is, and system calls that Python lacks.

What it holds, and for whom:

- `record`: the ready record, which every rank reads.
- `manifest`: a line for each verified file, which the downloader and ``verify`` read.
- `known`: the files of the record's commit, as the manifest names them.
- `verify`: hashes files, and checks whether those of a record are complete.
- `rows`: the selected rows of the directory's own metadata table.
- `visible`: waits until this node shows a ready record and its files.
- `lease`: which process may download into the directory; `lease_content`: its text on disk;
  `process`: whether the process that holds it still exists.
"""
