"""The cache on real mounts: two latent FUSE mounts of one directory, and a Linux NFS server with two Linux NFS clients."""
