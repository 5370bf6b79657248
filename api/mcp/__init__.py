"""The ledger for language models: tools over the Model Context Protocol, at ``/mcp``.

``tools`` says what there is, each tool bound to the caller's account and to one operation of
ryvion's scopes; ``server`` speaks the protocol by the official SDK. ``server`` is imported on
the first request: the SDK takes half a second and 33 MB, which a process may never need.
"""
