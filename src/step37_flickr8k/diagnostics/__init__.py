"""What an operator asks: `doctor`, `status`, `preview`. They change nothing in the cache directory."""
