"""Published numbers, and ours for the same network, hardware and images."""
