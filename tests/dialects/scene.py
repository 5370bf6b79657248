"""An account with something of everything, for tests that ask every operation of a document."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx

from tests.conftest import OPERATOR_SECRET, TLS
from tests.dialects.fleet import Fleet, native
from tests.dialects.test_conformance import CHAT, DRIVERS, PLAYER, House, Made

NATIVE = "native"


def bearer(text: str) -> dict[str, str]:
    """Show a secret or token as Bearer."""
    return {"Authorization": f"Bearer {text}"}


class Scene:
    """The account, and good credentials for one document."""

    def __init__(self, fleet: Fleet, dialect: str) -> None:
        """Make it."""
        self.fleet = fleet
        self.person = fleet.person(overdraft={"USD": "unlimited"})
        fleet.grant(self.person.account_id, CAD="1000", CREDIT="1000000")
        self.house = House(fleet, fleet.operator, self.person)
        own = dialect in DRIVERS
        self.secret = self._key(dialect) if own else ""
        self.shown: Mapping[str, Mapping[str, str]] = {
            "key": bearer(self.secret),
            "api_key": {"X-API-Key": self.secret},
            "session": bearer(self.person.token),
            "member": bearer(self.person.token),
            "operator": bearer(OPERATOR_SECRET),
        }
        self.there: dict[str, Any] = {
            "account_id": self.person.account_id,
            "model": "keyledger-small",
            "embeddings/model": "keyledger-embedding",
            "slug": self.house.character,
            "user_session_id": PLAYER["user_session_id"],
        }
        """Parameter or field → what exists; also ``segment before it/name``, and after a path's
        last segment ``segment/name``."""
        self._dialect = dialect
        self.stock()

    def stock(self) -> None:
        """Make what requests may be about, anew where some have ended it."""
        own = self._dialect if self._dialect in DRIVERS else "ryvion"
        self.spare = DRIVERS[own].create(self.house)
        self.there |= {"key_id": self.spare.key_id, "id": self.spare.key_id}
        more = {
            NATIVE: self._stock_native,
            "foil": self._stock_foil,
            "reverie": self._stock_reverie,
            "ryvion": self._stock_ryvion,
        }
        if self._dialect in more:
            more[self._dialect]()

    def of_path(self, path: str, name: str) -> str:
        """Return what exists for a path parameter."""
        before = path.partition(f"/{{{name}}}")[0].rpartition("/")[2]
        return str(self.there.get(f"{before}/{name}", self.there.get(name, "nothing")))

    def of_request(self, path: str, name: str, otherwise: Any = None) -> Any:
        """Return what exists for a field of a path's query or body."""
        return self.there.get(f"{path.rpartition('/')[2]}/{name}", self.there.get(name, otherwise))

    def _key(self, dialect: str) -> str:
        """Make a key that may ask as often as it likes."""
        own = {"venice": _create_admin, "ryvion": _create_unscoped}
        made = own.get(dialect, DRIVERS[dialect].create)(self.house)
        self.fleet.lift(made.key_id)
        return made.secret

    def _post(self, path: str, body: Any, *, shown: Mapping[str, str]) -> Any:
        made = self.fleet.operator.post(path, json=body, headers=shown)
        assert made.is_success, made.text
        return made.json()

    def _stock_foil(self) -> None:
        shown = self.shown["api_key"]
        with httpx.Client(base_url=self.fleet.url, headers=shown, verify=TLS) as client:
            persona = client.get("/api/v1/sdk/personas").json()[0]["id"]
        path = f"/api/v1/sdk/chat/{persona}/init-session"
        begun = self._post(path, PLAYER, shown={**shown, "Authorization": ""})
        self.there |= {"persona_id": persona, "machine_id": begun["machine_id"]}

    def _stock_reverie(self) -> None:
        self.there |= {"model": self.house.character, "models/id": self.house.character}

    def _stock_ryvion(self) -> None:
        things = {
            "knowledge-bases": {"name": "Handbook"},
            "agents": {"name": "Clerk", "instructions": "Be brief."},
            "memories": {"text": "Ada likes tables."},
        }
        for name, body in things.items():
            made = self._post(f"/api/v1/{name}", body, shown=self.shown["session"])
            self.there[f"{name}/id"] = made["id"]

    def _stock_native(self) -> None:
        account = f"/ledger/v1/accounts/{self.person.account_id}"
        self.there["key_id"] = key_id = native(self.spare.key_id).rpartition("/")[2]
        operator = self.shown["operator"]
        email = f"{self.spare.key_id}@example.com"
        body = {"email": email, "password": "a long password", "role": "member"}
        member = self._post(f"{account}/members", body, shown=operator)
        lot = self._post(f"{account}/grants", {"asset": "USD", "amount": "1"}, shown=operator)
        character = self._post(
            "/ledger/v1/characters", {"name": "Luna"}, shown=self.shown["member"]
        )
        chats = f"/ledger/v1/characters/{character['character_id']}/chats"
        self._post(chats, {}, shown=self.shown["member"])
        open_one = {"request_id": key_id, "key_id": key_id, "model": CHAT["model"]}
        self._post("/ledger/v1/requests", {**open_one, "usage": {"input": 1}}, shown=operator)
        # Not the standard one: others look up what its models cost.
        for price in ("0.15", "0.16"):
            models = {"house-1": {"prices": {"input": price}}}
            card = {"name": "proof", "asset": "USD", "models": models}
            self._post("/ledger/v1/rate-cards", card, shown=operator)
        found = self.fleet.operator.get(account).json()
        self.there |= {
            "member_id": member["member_id"],
            "lot": lot["lot"],
            "character_id": character["character_id"],
            "request_id": key_id,
            "asset": "DIEM",
            "rate-cards/name": "proof",
            "name": "proof",
            "version": "1",
            "diff/from": "1",
            "diff/to": "2",
            "lane": found["lane"],
            "seq": "1",
        }


def _create_unscoped(house: House) -> Made:
    """Create a key that may do everything, which only the operator can."""
    path = f"/ledger/v1/accounts/{house.person.account_id}/keys"
    made = house.operator.post(path, json={"name": "bot", "dialect": "ryvion"}).json()
    return Made(str(UUID(made["key_id"].removeprefix("key_"))), made["secret"], None)


def _create_admin(house: House) -> Made:
    body = {"apiKeyType": "ADMIN", "description": "manager"}
    made = house.person.client.post("/api/v1/api_keys", json=body).json()["data"]
    return Made(made["id"], made["apiKey"], None)
