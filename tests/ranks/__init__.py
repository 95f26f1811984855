"""Many ranks: real processes, killed, frozen, late."""
