"""Images: which kinds count, and what their decoders raise."""
