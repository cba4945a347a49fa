"""Background jobs and the lease under which one worker runs them."""
