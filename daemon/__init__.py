"""What stays up: watches folders, proves files whole, queues them and feeds the one worker."""
