"""What each media container says about its own length, held against the bytes that are there."""
