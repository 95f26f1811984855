"""The dataset as values: what is asked for, the metadata table, the files of a commit, digests.

Pure: nothing here opens a file or a connection.

- `selection`: what a call asks for (`Selection`), and a row that counts (`Row`).
- `metadata`: read the metadata table into the rows that count.
- `tables`: the two cells of each row, read by `csv_table`, `jsonl_table` or `parquet_table`.
- `names`: which names a row may give to an image, and which image is meant by one that isn't there.
- `listing`: the files of a commit (`RemoteFile`), packed (`Listing`).
- `decide`: which of them to fetch (`decide`, which returns a `Decision`).
- `digests`: the two kinds of digest that the Hub has, computed over a stream or over bytes.
- `words`: how messages write a list of names.
"""
