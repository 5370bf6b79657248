"""bve: an operator's surface for keys, and OpenAI's API. It counts, it does not bill.

Keys made here belong to the operator's own account, whose overdraft is unlimited.
"""
