"""What a process of the service runs: serving, jobs, health, logs."""
