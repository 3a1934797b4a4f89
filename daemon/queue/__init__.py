"""Queue: the ledger and the pure deciders that say what happens next."""
