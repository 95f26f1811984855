"""The dataset as values: what is asked for, the metadata table, the files of a commit, their digests.

Pure: nothing here opens a file or a connection.

- `selection`: what a call asks for (`Selection`), and a row that counts (`Row`).
- `metadata`: the metadata table, read into rows; which names a row may give to an image.
- `listing`: the files of a commit (`RemoteFile`), packed (`Listing`).
- `plan`: which of them to fetch (`decide`).
- `digests`: the two kinds of digests that the Hub gives.
"""
