"""What venice's routes take. Bodies are closed; what is left out of a PATCH stays."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

KeyType = Literal["INFERENCE", "ADMIN"]
Period = Literal["EPOCH", "MONTH", "LIFETIME"]
Privacy = Literal["ALL", "PRIVATE_TEXT", "PRIVATE_ONLY"]
Description = Annotated[str, Meta(max_length=64)]
Expiry = Annotated[str, Meta(max_length=32, examples=["2027-01-31", "2027-01-31T12:00:00Z"])]
"""Empty: never."""
Id = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=8_192)]

_CAP = {"type": ["number", "null"], "minimum": 0, "maximum": 9_999_999_999}
Cap = Annotated[msgspec.Raw, Meta(extra_json_schema=_CAP)]
"""A number kept as it is written, never as a binary fraction; or null: no cap."""


class ConsumptionLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Most that a key may spend in its period."""

    usd: Cap | UnsetType = UNSET
    """USD and bundled credits together."""
    diem: Cap | UnsetType = UNSET
    vcu: Cap | UnsetType = UNSET
    """Former name of ``diem``."""


class CreateKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """A key to be made."""

    api_key_type: KeyType
    description: Description
    expires_at: Expiry = ""
    consumption_limit: ConsumptionLimit = ConsumptionLimit()
    limit_period: Period = "EPOCH"
    model_privacy: Privacy = "ALL"


class Web3Key(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """A key to be made for a wallet that proves itself."""

    api_key_type: KeyType
    address: Annotated[str, Meta(max_length=64)]
    signature: Text
    token: Text
    description: Description = "Web3 API Key"
    expires_at: Expiry = ""
    consumption_limit: ConsumptionLimit = ConsumptionLimit()
    limit_period: Period = "EPOCH"
    model_privacy: Privacy = "ALL"


class UpdateKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """What to change about a key."""

    id: Id
    description: Description | UnsetType = UNSET
    expires_at: Expiry | UnsetType | None = UNSET
    consumption_limit: ConsumptionLimit | UnsetType = UNSET
    limit_period: Period | UnsetType = UNSET
    model_privacy: Privacy | UnsetType = UNSET


class DeleteKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be revoked, where the query does not name it."""

    id: Id
