"""The cache on real mounts: two latent FUSE mounts of one folder, and a Linux NFS server with two Linux NFS clients."""
