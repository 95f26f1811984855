"""The cache directory: what lies in it, who may write to it, and when it is ready.

The only package that renames, changes modes or deletes.

- `directory`: the directory itself (`CacheDirectory`): publish by rename, scan, sweep.
- `record`: the ready record and the manifest.
- `lease`: which process may download into the directory.
- `filesystem`, `linux`: what the file system below it is and can do.
"""
