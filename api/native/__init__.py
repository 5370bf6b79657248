"""The native API under /ledger/v1: accounts, keys, credit, prices, usage, reports."""
