"""The metering gateway: reserve the worst case, forward, stream through, settle what was used.

``table`` lists what is forwarded, ``forward`` does it, ``settlement`` records how it ended.
Nothing here knows a dialect: who asks, under which model it is booked and how a failure is worded
come in with each request. README.md holds the rules of settlement.
"""
