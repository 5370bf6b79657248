"""reverie: an account's characters behind OpenAI's API, paid from its one balance of credits.

Keys are made and revoked on the dashboard and by the native API, which the page leaves open.
"""
