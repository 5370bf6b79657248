"""A process of the service: serving, jobs, health, logs."""
