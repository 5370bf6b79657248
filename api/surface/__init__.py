"""What all dialects stand on: failures, credentials, routes. Nothing here knows a dialect."""
