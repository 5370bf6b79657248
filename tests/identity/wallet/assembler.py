"""A tiny assembler for the EVM: words in, bytecode out.

A word is an opcode, a hexadecimal number to push (``0x2a``), a label (``here:``), which is a jump's
destination, or a label's place to push (``@here``). What follows ``#`` is a comment.
"""

_OPCODES = """
00 stop  01 add  03 sub  11 gt  14 eq  15 iszero  1a byte  1b shl  1c shr  33 caller
35 calldataload  36 calldatasize  37 calldatacopy  39 codecopy  50 pop  51 mload  52 mstore
54 sload  55 sstore  57 jumpi  5a gas  80 dup1  81 dup2  90 swap1  f3 return  fa staticcall
fd revert  fe invalid
""".split()  # noqa: SIM905 - a table reads better
OPCODES = {name: int(code, 16) for code, name in zip(_OPCODES[::2], _OPCODES[1::2], strict=True)}
JUMPDEST, PUSH1, PUSH2 = 0x5B, 0x60, 0x61


def assemble(source: str) -> bytes:
    """Turn a program into bytecode."""
    words = [word for line in source.splitlines() for word in line.partition("#")[0].split()]
    code, places, uses = bytearray(), {}, {}
    for word in words:
        if word.endswith(":"):
            places[word[:-1]] = len(code)
            code.append(JUMPDEST)
        elif word.startswith("@"):
            uses[len(code) + 1] = word[1:]
            code += bytes((PUSH2, 0, 0))
        elif word.startswith("0x"):
            code += _push(int(word, 16))
        else:
            code.append(OPCODES[word])
    for at, label in uses.items():
        code[at : at + 2] = places[label].to_bytes(2)
    return bytes(code)


def _push(number: int) -> bytes:
    size = max(1, (number.bit_length() + 7) // 8)
    return bytes((PUSH1 + size - 1,)) + number.to_bytes(size)


def creation(runtime: bytes, constructor: str = "") -> bytes:
    """Return the code that runs once: the constructor, then leaving ``runtime`` at the address."""

    def code(start: int) -> bytes:
        size = hex(len(runtime))
        return assemble(f"{constructor} {size} {hex(start)} 0x0 codecopy {size} 0x0 return")

    # Where the runtime starts is pushed by the code before it.
    head = code(len(code(0)))
    assert len(code(len(head))) == len(head)
    return code(len(head)) + runtime
