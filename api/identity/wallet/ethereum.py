"""Addresses, signatures and contract calls of Ethereum. Needs the extra ``wallet``.

The one module that imports Ethereum's packages. It only computes, and asks no node.
"""

import re

from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_keys.exceptions import BadSignature
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from api.identity.wallet.words import AddressIsInvalid, SignatureIsUnverifiable, WalletAddress

SIGNATURE_MAX_BYTES = 8_192
"""Contract wallets pack several signatures, or one by a passkey, into one."""
ORDINARY_BYTES = 65
"""r, s, v."""
RECOVERY_IDS = frozenset({0, 1, 27, 28})

_BALANCE_OF = function_signature_to_4byte_selector("balanceOf(address)")
_IS_VALID_SIGNATURE = function_signature_to_4byte_selector("isValidSignature(bytes32,bytes)")
# The whole word: a contract that echoes its input would match the selector alone.
_VALID = _IS_VALID_SIGNATURE.ljust(32, b"\0")

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)", re.ASCII)


def address_of(text: str) -> WalletAddress:
    """Read an address, in small letters or with its EIP-55 checksum.

    Raises:
        AddressIsInvalid: It is not an address, or is mistyped.
    """
    if _ADDRESS.fullmatch(text) is None:
        raise AddressIsInvalid
    checked = to_checksum_address(text.lower())
    if text not in {checked, checked.lower()}:
        raise AddressIsInvalid
    return WalletAddress(checked)


def signature_of(text: str) -> bytes:
    """Read a signature from its hexadecimal digits.

    Raises:
        SignatureIsUnverifiable: They are not a signature.
    """
    if len(text) > 2 + 2 * SIGNATURE_MAX_BYTES:
        raise SignatureIsUnverifiable
    match = _HEX.fullmatch(text)
    if match is None:
        raise SignatureIsUnverifiable
    return bytes.fromhex(match[1])


def signer_of(message: str, signature: bytes) -> WalletAddress | None:
    """Return the ordinary account that signed a message by ``personal_sign`` (EIP-191); None: none.

    It takes a processor some 10 ms.
    """
    if len(signature) != ORDINARY_BYTES or signature[-1] not in RECOVERY_IDS:
        return None
    try:
        found = Account.recover_message(encode_defunct(text=message), signature=signature)
    except BadSignature:
        return None
    return WalletAddress(to_checksum_address(found))


def question_of_signature(message: str, signature: bytes) -> bytes:
    """Return the call data that asks a contract wallet about a signature (EIP-1271)."""
    signed = encode_defunct(text=message)
    digest = keccak(b"\x19" + signed.version + signed.header + signed.body)
    return _IS_VALID_SIGNATURE + encode(["bytes32", "bytes"], [digest, signature])


def says_valid(answer: bytes) -> bool:
    """Return whether a contract wallet calls the signature its own."""
    return answer[:32] == _VALID


def question_of_balance(address: WalletAddress) -> bytes:
    """Return the call data that asks a token what an address holds (ERC-20)."""
    return _BALANCE_OF + encode(["address"], [address])
