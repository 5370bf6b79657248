"""Settings from the environment, and the secrets that a data directory holds.

Several hosts on one database share the pepper and the signing secret through the environment; where
they are unset, the first start makes them and keeps them in the data directory, readable by its
owner only. Nothing here connects to anything.
"""

import hashlib
import os
import re
import secrets as random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ledger.money import KNOWN_ASSETS, Amount, InvalidAmount, parse_amount, parse_asset
from ledger.pricing import MODEL_TOKENS_MAX
from ledger.secrets import Peppers, dialects

PORT_MAX = 65_535
WORKERS_MAX = 64
SIGNUPS_MAX = 1_000
"""A larger number an hour would be no limit at all."""
RETENTION_MAX_DAYS = 36_500
OFFSET_MAX = timedelta(days=36_500)
IDEMPOTENCY_SECONDS_MAX = 86_400
PEPPER_BYTES = 32
CONNECT_SECONDS_MAX = 60
UPSTREAM_SECONDS_MAX = 3_600
TOOL_USES_MAX = 1_000
CHAIN_ID_MAX = 2**63 - 1
BASE_CHAIN_ID = 8453
STAKED_VVV = "0x321b7ff75154472B18EDb199033fF4D116F340Ff"
"""Where VVV is staked on Base; it reports balances as an ERC-20 token does."""
WELCOME = "5 USD, 5 CAD, 100000 CREDIT"
"""Enough to try every dialect."""


class InvalidSetting(ValueError):
    """A setting is wrong; the message names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says. ``VARIABLES`` documents each."""

    home: Path = Path(".keyledger")
    database_url: str = ""
    admin_secret: str = ""
    pepper: str = ""
    jwt_secret: str = ""
    welcome_grant: str = WELCOME
    assets: str = ""
    lanes: int = 2
    host: str = "127.0.0.1"
    port: int = 8321
    workers: int = 1
    upstream_url: str = ""
    upstream_key: str = ""
    upstream_model: str = ""
    upstream_connect_seconds: int = 5
    upstream_read_seconds: int = 120
    upstream_total_seconds: int = 600
    max_output_tokens: int = 0
    context_tokens: int = 131_072
    tool_uses: int = 8
    hosts: str = ""
    trusted_proxies: str = ""
    origins: str = "*"
    signups_per_hour: int = 20
    raw_report_days: int = 400
    retention_days: int = 30
    clock_offset: str = ""
    idempotency_seconds: int = 600
    web3_rpc_url: str = ""
    web3_contract: str = STAKED_VVV
    web3_chain_id: int = BASE_CHAIN_ID

    @property
    def answer_seconds(self) -> int:
        """Return how long an answer is kept for a retry; 0: not at all, like all message text."""
        return self.idempotency_seconds if self.retention_days else 0

    @property
    def upstreams(self) -> Sequence[tuple[str, str]]:
        """Return the services behind the gateway, each with the key to show to it."""
        return _upstreams(self.upstream_url, self.upstream_key)

    @property
    def dialects_of_hosts(self) -> Mapping[str, str]:
        """Return the hosts that speak one dialect only."""
        return _hosts(self.hosts)

    @property
    def allowed_origins(self) -> Sequence[str]:
        """Return the origins whose pages may call from a browser; ``*``: any."""
        return _origins(self.origins)

    @property
    def trusted_networks(self) -> Sequence[str]:
        """Return the networks of proxies trusted to say a client's address; empty: none."""
        return _proxies(self.trusted_proxies)

    @property
    def offset(self) -> timedelta | None:
        """Return how far the ledger's clock is to be ahead; None: leave it as it is."""
        return _offset(self.clock_offset) if self.clock_offset else None

    @property
    def known_assets(self) -> frozenset[str]:
        """Return the assets that amounts may be of: the built-in ones, and those declared."""
        declared = filter(None, (part.strip() for part in self.assets.split(",")))
        return KNOWN_ASSETS | set(map(parse_asset, declared))

    @property
    def welcome(self) -> tuple[Amount, ...]:
        """Return the credit of a new account: one lot each."""
        if self.welcome_grant in {"", "0"}:
            return ()
        return tuple(parse_amount(part.strip()) for part in self.welcome_grant.split(","))


VARIABLES: Mapping[str, str] = {
    "KEYLEDGER_HOME": "Data directory; default .keyledger in the working directory.",
    "KEYLEDGER_DATABASE_URL": "PostgreSQL to use; unset: an embedded one in the data directory.",
    "KEYLEDGER_ADMIN_SECRET": "The operator's secret; unset: made at first start, printed once.",
    "KEYLEDGER_PEPPER": "Key-hash pepper; several as 1:<text>,2:<text>; unset: made and kept.",
    "KEYLEDGER_JWT_SECRET": "Signs members' tokens, 32 characters or more; unset: made and kept.",
    "KEYLEDGER_ASSETS": "Assets besides currencies and the dialects' own: POINTS,TOKENS.",
    "KEYLEDGER_WELCOME_GRANT": f'Credit of a new account; default "{WELCOME}"; 0: none.',
    "KEYLEDGER_LANES": "Lanes of a database about to be created; fixed from then on; default 2.",
    "KEYLEDGER_HOST": "Address to listen on; default 127.0.0.1.",
    "KEYLEDGER_PORT": "Port to listen on; default 8321; 0: any that is free.",
    "KEYLEDGER_WORKERS": "Worker processes; default 1. More help where there are more processors.",
    "KEYLEDGER_UPSTREAM_URL": "OpenAI-compatible services, such as http://host/v1, asked in this"
    " order; unset: a sample.",
    "KEYLEDGER_SIGNUP": "Accounts that one network address may open per hour; default 20; or off.",
    "KEYLEDGER_HOSTS": "Hosts that speak one dialect only: api.example.com=ryvion,…",
    "KEYLEDGER_TRUSTED_PROXIES": "Reverse proxies, such as 10.0.0.7,10.1.0.0/16, whose"
    " X-Forwarded-For is believed; unset: none, and all clients behind a proxy count as one.",
    "KEYLEDGER_ORIGINS": "Origins whose pages may call from a browser, with commas"
    " between, such as https://app.example.com; default *: any.",
    "KEYLEDGER_UPSTREAM_KEY": "Bearer token for the upstreams: one for all, or one for each.",
    "KEYLEDGER_UPSTREAM_MODEL": "The upstreams' model behind characters; unset: keyledger-small.",
    "KEYLEDGER_UPSTREAM_CONNECT_SECONDS": "How long connecting to an upstream may take; default 5.",
    "KEYLEDGER_UPSTREAM_READ_SECONDS": "How long an upstream may be silent; default 120.",
    "KEYLEDGER_UPSTREAM_TOTAL_SECONDS": "How long a request may take, with retries; default 600.",
    "KEYLEDGER_RAW_REPORT_DAYS": "How many days providers' usage reports are kept; default 400.",
    "KEYLEDGER_MAX_OUTPUT_TOKENS": "Longest answer, in tokens, asked of an upstream; default 0: as"
    " long as the model's answers can be.",
    "KEYLEDGER_CONTEXT_TOKENS": "Tokens held for context that an upstream keeps, if the rate card"
    " does not know the model's window; default 131072.",
    "KEYLEDGER_TOOL_USES": "Uses held for a tool that an upstream runs, where the request does not"
    " say how often; default 8.",
    "KEYLEDGER_RETENTION_DAYS": "How many days message text is kept; default 30; 0: not at all.",
    "KEYLEDGER_CLOCK_OFFSET": "How far the ledger's clock is ahead of the database's: seconds, or"
    " P40D, -PT90M. Only for a database made by keyledger db upgrade --for-tests; kept there.",
    "KEYLEDGER_IDEMPOTENCY_SECONDS": "Seconds that an answer to an Idempotency-Key is kept for a"
    " retry; default 600; 0: not at all, as when no message text is kept.",
    "KEYLEDGER_WEB3_RPC_URL": "JSON-RPC node for wallet sign-in (extra: wallet); unset: off.",
    "KEYLEDGER_WEB3_CONTRACT": "Where a wallet must hold a stake; default: staked VVV on Base.",
    "KEYLEDGER_WEB3_CHAIN_ID": "Chain of the node and the contract; default 8453, which is Base.",
}
"""Every variable; ``keyledger serve --help`` lists them."""


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        InvalidSetting: One is wrong.
    """
    get = environment.get
    settings = Settings(
        home=Path(get("KEYLEDGER_HOME") or ".keyledger"),
        database_url=get("KEYLEDGER_DATABASE_URL", ""),
        admin_secret=get("KEYLEDGER_ADMIN_SECRET", ""),
        pepper=get("KEYLEDGER_PEPPER", ""),
        jwt_secret=get("KEYLEDGER_JWT_SECRET", ""),
        welcome_grant=get("KEYLEDGER_WELCOME_GRANT", WELCOME),
        assets=get("KEYLEDGER_ASSETS", ""),
        lanes=_whole(environment, "KEYLEDGER_LANES", 2, 1, 4096),
        host=get("KEYLEDGER_HOST", "127.0.0.1"),
        port=_whole(environment, "KEYLEDGER_PORT", 8321, 0, PORT_MAX),
        workers=_whole(environment, "KEYLEDGER_WORKERS", 1, 1, WORKERS_MAX),
        upstream_url=get("KEYLEDGER_UPSTREAM_URL", ""),
        upstream_key=get("KEYLEDGER_UPSTREAM_KEY", ""),
        upstream_model=get("KEYLEDGER_UPSTREAM_MODEL", ""),
        upstream_connect_seconds=_whole(
            environment, "KEYLEDGER_UPSTREAM_CONNECT_SECONDS", 5, 1, CONNECT_SECONDS_MAX
        ),
        upstream_read_seconds=_whole(
            environment, "KEYLEDGER_UPSTREAM_READ_SECONDS", 120, 1, UPSTREAM_SECONDS_MAX
        ),
        upstream_total_seconds=_whole(
            environment, "KEYLEDGER_UPSTREAM_TOTAL_SECONDS", 600, 1, UPSTREAM_SECONDS_MAX
        ),
        max_output_tokens=_whole(
            environment, "KEYLEDGER_MAX_OUTPUT_TOKENS", 0, 0, MODEL_TOKENS_MAX
        ),
        context_tokens=_whole(
            environment, "KEYLEDGER_CONTEXT_TOKENS", 131_072, 1, MODEL_TOKENS_MAX
        ),
        tool_uses=_whole(environment, "KEYLEDGER_TOOL_USES", 8, 1, TOOL_USES_MAX),
        hosts=get("KEYLEDGER_HOSTS", ""),
        trusted_proxies=get("KEYLEDGER_TRUSTED_PROXIES", ""),
        origins=get("KEYLEDGER_ORIGINS", "*"),
        signups_per_hour=_signups(environment),
        raw_report_days=_whole(
            environment, "KEYLEDGER_RAW_REPORT_DAYS", 400, 0, RETENTION_MAX_DAYS
        ),
        retention_days=_whole(environment, "KEYLEDGER_RETENTION_DAYS", 30, 0, RETENTION_MAX_DAYS),
        clock_offset=get("KEYLEDGER_CLOCK_OFFSET", ""),
        idempotency_seconds=_whole(
            environment, "KEYLEDGER_IDEMPOTENCY_SECONDS", 600, 0, IDEMPOTENCY_SECONDS_MAX
        ),
        web3_rpc_url=_web3_url(get("KEYLEDGER_WEB3_RPC_URL", "")),
        web3_contract=_web3_contract(get("KEYLEDGER_WEB3_CONTRACT") or STAKED_VVV),
        web3_chain_id=_whole(
            environment, "KEYLEDGER_WEB3_CHAIN_ID", BASE_CHAIN_ID, 1, CHAIN_ID_MAX
        ),
    )
    try:
        assets = settings.known_assets
    except InvalidAmount as error:
        message = f"KEYLEDGER_ASSETS: {error}"
        raise InvalidSetting(message) from error
    try:
        given = settings.welcome
    except InvalidAmount as error:
        message = f"KEYLEDGER_WELCOME_GRANT: {error}"
        raise InvalidSetting(message) from error
    for amount in given:
        if amount.asset not in assets:
            message = f"KEYLEDGER_WELCOME_GRANT: {amount.asset} is not in KEYLEDGER_ASSETS."
            raise InvalidSetting(message)
        if not amount.pico:
            message = f"KEYLEDGER_WELCOME_GRANT: {amount} is not above zero."
            raise InvalidSetting(message)
    _ = settings.dialects_of_hosts
    _ = settings.trusted_networks
    _ = settings.allowed_origins
    _ = settings.upstreams
    _ = settings.offset
    if settings.jwt_secret and len(settings.jwt_secret) < PEPPER_BYTES:
        message = f"KEYLEDGER_JWT_SECRET must have {PEPPER_BYTES} characters or more."
        raise InvalidSetting(message)
    return settings


def _upstreams(urls: str, keys: str) -> list[tuple[str, str]]:
    addresses = [part.strip() for part in urls.split(",") if part.strip()]
    shown = [part.strip() for part in keys.split(",")]
    for address in addresses:
        split = urlsplit(address)
        if split.scheme not in {"http", "https"} or not split.hostname or split.query:
            message = (
                "KEYLEDGER_UPSTREAM_URL must be URLs such as https://host/v1, with commas between."
            )
            raise InvalidSetting(message)
        if split.username is not None:
            raise InvalidSetting("KEYLEDGER_UPSTREAM_URL holds a key: set KEYLEDGER_UPSTREAM_KEY.")
    if len(shown) not in {1, len(addresses)}:
        raise InvalidSetting(
            "KEYLEDGER_UPSTREAM_KEY must be one for all upstreams, or one for each."
        )
    if any(not (key.isascii() and key.isprintable()) for key in shown):
        raise InvalidSetting("KEYLEDGER_UPSTREAM_KEY must be printable ASCII.")
    of_each = shown if len(shown) == len(addresses) else shown * len(addresses)
    return list(zip(addresses, of_each, strict=True))


def _hosts(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, _, dialect = part.partition("=")
        if not host or dialect not in dialects():
            message = f"KEYLEDGER_HOSTS must be host=dialect, with one of {', '.join(dialects())}."
            raise InvalidSetting(message)
        found[host.strip().lower()] = dialect
    return found


def _origins(text: str) -> list[str]:
    found = [part.strip().lower() for part in text.split(",") if part.strip()]
    for part in found:
        split = urlsplit(part)
        whole = f"{split.scheme}://{split.netloc}"
        if part != "*" and (split.scheme not in {"http", "https"} or "*" in part or whole != part):
            message = (
                "KEYLEDGER_ORIGINS must be https://host or http://host:port, with commas, or *."
            )
            raise InvalidSetting(message)
    return found


def _proxies(text: str) -> list[str]:
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        network = _network(part)
        found.append(str(network))
        if isinstance(network, IPv4Network):
            # How it connects to a socket that listens on IPv6 as well.
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        message = f"KEYLEDGER_TRUSTED_PROXIES: write them as 10.0.0.7,10.1.0.0/16; {error}."
        raise InvalidSetting(message) from error
    if not network.prefixlen:
        raise InvalidSetting(
            f"KEYLEDGER_TRUSTED_PROXIES: {text!r} is everybody, and anybody can send that header."
        )
    return network


def _offset(text: str) -> timedelta:
    """Read seconds, or an ISO 8601 duration without months, which differ in length."""
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        message = "KEYLEDGER_CLOCK_OFFSET must be seconds, or a duration such as P40D or -PT90M."
        raise InvalidSetting(message)
    sign, *parts = match.groups()
    total, weeks, days, hours, minutes, seconds = (int(part or 0) for part in parts)
    try:
        offset = timedelta(
            weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=total + seconds
        )
    except OverflowError:
        offset = timedelta.max
    if offset > OFFSET_MAX:
        raise InvalidSetting("KEYLEDGER_CLOCK_OFFSET must be at most 100 years.")
    return -offset if sign == "-" else offset


_DURATION = re.compile(
    r"([+-]?)(?:(\d+)|P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?)", re.ASCII
)


def _signups(environment: Mapping[str, str]) -> int:
    if environment.get("KEYLEDGER_SIGNUP", "").lower() == "off":
        return 0
    return _whole(environment, "KEYLEDGER_SIGNUP", Settings().signups_per_hour, 1, SIGNUPS_MAX)


def _web3_url(text: str) -> str:
    if not text:
        return text
    # It may hold a key, so the message does not repeat it.
    problem = InvalidSetting("KEYLEDGER_WEB3_RPC_URL must be an http or https URL.")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise problem from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise problem
    return text


def _web3_contract(text: str) -> str:
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", text, re.ASCII) is None:
        message = "KEYLEDGER_WEB3_CONTRACT must be an address: 0x and 40 hexadecimal digits."
        raise InvalidSetting(message)
    return text


def _whole(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or not low <= int(text) <= high:
        message = f"{name} must be a whole number, {low} to {high}."
        raise InvalidSetting(message)
    return int(text)


def secrets(settings: Settings) -> list[str]:
    """Return the secrets, besides the peppers, that must never be logged or stored."""
    keys = [key for _, key in settings.upstreams]
    return [settings.admin_secret, jwt_secret(settings), settings.web3_rpc_url, *keys]


def peppers(settings: Settings) -> Peppers:
    """Return the peppers; make and keep one where the environment names none.

    Raises:
        InvalidSetting: A version is not a number, or a pepper is empty.
    """
    if not settings.pepper:
        return Peppers({1: kept(settings.home, "pepper").encode()})
    if ":" not in settings.pepper:
        return Peppers({1: settings.pepper.encode()})
    found: dict[int, bytes] = {}
    for part in settings.pepper.split(","):
        version, _, text = part.strip().partition(":")
        if not version.isdecimal() or not 1 <= int(version) <= 999 or not text:  # noqa: PLR2004
            raise InvalidSetting("KEYLEDGER_PEPPER must be one text, or 1:<text>,2:<text>.")
        found[int(version)] = text.encode()
    return Peppers(found)


def jwt_secret(settings: Settings) -> str:
    """Return the secret that signs members' tokens; make and keep one where none is set."""
    return settings.jwt_secret or kept(settings.home, "jwt-secret")


def kept(home: Path, name: str) -> str:
    """Read a secret from the data directory, or make it: 32 random bytes, mode 0600.

    Safe when several processes start at once: one file wins, and all read it.
    """
    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    place = home / name
    if not place.exists():
        fresh = home / f".{name}.{random.token_hex(8)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(random.token_urlsafe(PEPPER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, place)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return place.read_text("ascii").strip()


def digest(secret: str) -> bytes:
    """Return the digest by which the operator's secret is compared."""
    return hashlib.sha256(secret.encode()).digest()
