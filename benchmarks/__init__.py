"""Scripts that print a figure beside the limit or the peer, measured in the same run."""
