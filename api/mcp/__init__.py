"""The ledger for language models: tools over the Model Context Protocol, at ``/mcp``.

``tools`` says what there is, each tool bound to the caller's account and to one operation of
ryvion's scopes; ``server`` speaks the protocol by the official SDK. ``server`` is imported when
first asked for: the SDK takes half a second and 33 MB, which a process that nobody asks is spared.
"""
