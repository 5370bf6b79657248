"""Addresses and signatures, against the vectors that the standards and wallets publish."""

import re

import pytest

from api.identity.wallet import AddressIsInvalid, SignatureIsUnverifiable, ethereum
from api.settings import STAKED_VVV, InvalidSetting, from_environment

EIP_55 = (
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)
SIGNED = "I♥SF"
SIGNER = "0x5ce9454909639D2D17A3F753ce7d93fa0b9aB12E"
SIGNATURE = (
    "0xe6ca9bba58c88611fad66a6ce8f996908195593807c4b38bd528d2cff09d4eb3"
    "3e5bfbbf4d3e39b1a2fd816a7680c19ebebaf3a141b239934ad43cb33fcec8ce1c"
)


@pytest.mark.parametrize("address", [*EIP_55, STAKED_VVV])
def test_an_address_is_read_with_its_checksum_or_in_small_letters(address: str) -> None:
    """EIP-55: both forms mean one wallet."""
    assert ethereum.address_of(address) == address
    assert ethereum.address_of(address.lower()) == address


@pytest.mark.parametrize(
    "address",
    [
        EIP_55[2].replace("A", "a", 1),
        EIP_55[2].swapcase().replace("0X", "0x"),
        "0X" + EIP_55[2][2:],
        EIP_55[2][2:],
        EIP_55[2] + "0",
        EIP_55[2][:-1],
        EIP_55[2] + "\n",
        "0x" + "g" * 40,
        "0x" + "٣" * 40,
        "vitalik.eth",
        "",
    ],
)
def test_what_is_mistyped_is_no_address(address: str) -> None:
    """A wrong checksum stops before anything is asked."""
    with pytest.raises(AddressIsInvalid, match="Invalid wallet address"):
        ethereum.address_of(address)


def test_the_signer_of_a_published_signature_is_found() -> None:
    """EIP-191: as wallets sign, whether they count v from 27 or from 0."""
    signature = ethereum.signature_of(SIGNATURE)
    assert ethereum.signer_of(SIGNED, signature) == SIGNER
    assert ethereum.signer_of(SIGNED, signature[:-1] + b"\x01") == SIGNER
    assert ethereum.signer_of(SIGNED + "!", signature) != SIGNER


@pytest.mark.parametrize(
    "signature",
    [bytes(65), b"\xff" * 65, b"\xff" * 64 + b"\x1b", bytes(64) + b"\x1b", b"", b"x", bytes(64)],
)
def test_nobody_signed_what_is_no_signature(signature: bytes) -> None:
    """Numbers off the curve recover nobody, and break nothing."""
    assert ethereum.signer_of(SIGNED, signature) is None


@pytest.mark.parametrize("text", ["", "0x", "0x1", "zz", "0x" + "00" * 8_193, "0x00\n", "0x٣٣"])
def test_what_is_not_hexadecimal_cannot_be_verified(text: str) -> None:
    """Nor can what is too long."""
    with pytest.raises(SignatureIsUnverifiable, match="Could not verify wallet signature"):
        ethereum.signature_of(text)


def test_the_staking_contract_is_venices_on_base() -> None:
    """Unless the operator names another."""
    settings = from_environment({})
    assert (settings.web3_rpc_url, settings.web3_contract) == ("", STAKED_VVV)
    assert settings.web3_chain_id == 8453


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYLEDGER_WEB3_RPC_URL", "ftp://key@node"),
        ("KEYLEDGER_WEB3_RPC_URL", "https:///key"),
        ("KEYLEDGER_WEB3_RPC_URL", "https://node:key/"),
        ("KEYLEDGER_WEB3_RPC_URL", "https://[key/"),
        ("KEYLEDGER_WEB3_CONTRACT", "0x1234"),
        ("KEYLEDGER_WEB3_CHAIN_ID", "base"),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(name: str, value: str) -> None:
    """The node's URL may hold a key, so it is in no message."""
    with pytest.raises(InvalidSetting, match=re.escape(name)) as refused:
        from_environment({name: value})
    assert value not in str(refused.value)
