"""The five documented key surfaces. Each is the same small set of files; none knows another.

A guard in ``credentials`` is named for what it lets pass, alike in all five: ``key`` (a key, about
which the lane decides), ``usable_key`` (a key that may act now; its state is read), ``session``
(the token of a login), ``…_or_session`` (either), ``operator``, ``admin_key`` (a key that manages
keys) and ``anyone`` (nothing need be shown).
"""
