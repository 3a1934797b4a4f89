"""The ground floor: plain values and plain files that the daemon and the worker both understand."""
