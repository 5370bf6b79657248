"""ryvion: OpenAI's API, keys with three scopes, a login that serves every dialect, and MCP."""
