"""venice: keys with consumption limits, billing, wallet sign-in, and an OpenAI-like API.

All under ``/api/v1``; camelCase. Every request of a key that fails counts against the key's limit
on failures, wherever it failed.
"""
