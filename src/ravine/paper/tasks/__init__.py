"""Tasks: what is trained and watched, chosen by the network's type."""
