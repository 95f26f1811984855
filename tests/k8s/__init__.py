"""The manifests of ``k8s/`` on a real cluster: ``make test-k8s``."""
