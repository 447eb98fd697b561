"""Train networks: losses, data, the training loop. Needs torch."""
