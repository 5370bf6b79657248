"""Who may ask, and how: HTTP routes, the command line, jobs."""
