"""What tests of several packages share: ranks as processes, stores, mounts, workers, a browser."""
