"""Decisions about accounts and their members: state and facts in, events out."""

from ledger import events as e
from ledger.errors import (
    AccountIsClosed,
    AccountIsOpen,
    AccountIsSuspended,
    InvalidField,
    LastOwnerStays,
    NoSuchAccount,
    NoSuchMember,
)
from ledger.limits import compile_rule, compile_rules
from ledger.money import InvalidAmount, parse_asset, parse_pico
from ledger.pricing import MODEL_TOKENS_MAX
from ledger.state import OVERDRAFT_UNLIMITED, Account

ROLES = ("owner", "finance", "auditor", "member")
ASSETS_MAX = 8
REASON_MAX = 500
MEMBERS_MAX = 1_000


def require_open(account: Account | None) -> Account:
    """Return the account if it may act.

    Raises:
        NoSuchAccount, AccountIsSuspended, AccountIsClosed: It may not.
    """
    account = require_not_closed(account)
    if account.status == "suspended":
        raise AccountIsSuspended
    return account


def require_account(account: Account | None) -> Account:
    """Return the account if there is one.

    Raises:
        NoSuchAccount: There is none.
    """
    if account is None:
        raise NoSuchAccount
    return account


def require_not_closed(account: Account | None) -> Account:
    """Return the account if it can still be changed.

    Raises:
        NoSuchAccount, AccountIsClosed: It cannot.
    """
    account = require_account(account)
    if account.status == "closed":
        raise AccountIsClosed
    return account


def check_terms(terms: e.AccountOpened | e.AccountPolicySet) -> None:
    """Check the terms under which an account is billed.

    Raises:
        InvalidField: Names the one that is wrong.
    """
    pays_with, overdraft = terms.pays_with, terms.overdraft
    if not 1 <= len(pays_with) <= ASSETS_MAX or len(set(pays_with)) != len(pays_with):
        raise InvalidField("pays_with", f"1 to {ASSETS_MAX} different assets")
    for field, assets in (("pays_with", pays_with), ("overdraft", overdraft)):
        for asset in assets:
            try:
                parse_asset(asset)
            except InvalidAmount as error:
                raise InvalidField(field, "not an asset code") from error
    for asset, bound in overdraft.items():
        _check_overdraft(asset, bound)
    if terms.unpriced not in {"refuse", "record"}:
        raise InvalidField("unpriced", "must be refuse or record")
    if not 0 <= terms.max_output_tokens <= MODEL_TOKENS_MAX:
        raise InvalidField("max_output_tokens", f"must be 0 to {MODEL_TOKENS_MAX}")


def _check_overdraft(asset: str, bound: str) -> None:
    if bound == OVERDRAFT_UNLIMITED:
        return
    try:
        parse_pico(bound)
    except InvalidAmount as error:
        problem = "must be a plain decimal amount or unlimited"
        raise InvalidField(f"overdraft.{asset}", problem) from error


def open_account(account: Account | None, terms: e.AccountOpened) -> list[e.AnyEvent]:
    """Open an account on these terms.

    Raises:
        AccountIsOpen: There is one of this id.
        InvalidField: A term is wrong.
    """
    if account is not None:
        raise AccountIsOpen
    check_terms(terms)
    compile_rules(terms.limits)
    return [terms]


def set_policy(account: Account | None, terms: e.AccountPolicySet) -> list[e.AnyEvent]:
    """Replace the terms under which the account is billed.

    Raises:
        NoSuchAccount, AccountIsClosed, InvalidField: It cannot be.
    """
    require_not_closed(account)
    check_terms(terms)
    return [terms]


def set_limits(
    account: Account | None, rules: tuple[e.LimitRule, ...], *, by: str
) -> list[e.AnyEvent]:
    """Replace the account's limits; those that it set for itself stay.

    Raises:
        NoSuchAccount, AccountIsClosed, InvalidField: It cannot be.
    """
    account = require_not_closed(account)
    rules += tuple(rule for rule in account.rules if rule.own)
    compile_rules(rules)
    return [e.AccountLimitsSet(by=by, limits=rules)]


def limit_own_spending(
    account: Account | None, ceiling: str | None, *, asset: str, window: str, by: str
) -> list[e.AnyEvent]:
    """Set what the account lets itself spend in a window, besides the operator's limits.

    None lifts it; quiet where nothing changes. It counts from when it is first set.

    Raises:
        NoSuchAccount, AccountIsClosed: It cannot be.
        InvalidField: The ceiling is no amount, or above one that the operator set.
    """
    account = require_not_closed(account)
    kept = tuple(
        rule
        for rule in account.rules
        if not (rule.own and rule.window == window and rule.assets == (asset,))
    )
    rules = kept
    if ceiling is not None:
        own = e.LimitRule(kind="spend", window=window, ceiling=ceiling, assets=(asset,), own=True)
        _require_at_most_the_operators(own, kept)
        rules = (*kept, own)
    compile_rules(rules)
    return [] if rules == account.rules else [e.AccountLimitsSet(by=by, limits=rules)]


def _require_at_most_the_operators(own: e.LimitRule, rules: tuple[e.LimitRule, ...]) -> None:
    wanted = compile_rule(own).ceiling
    for rule in rules:
        covers = not rule.assets or set(own.assets) <= set(rule.assets)
        whole = not (rule.own or rule.category or rule.model or rule.each_model)
        if rule.kind == "spend" and rule.window == own.window and covers and whole:
            limit = compile_rule(rule)
            if wanted > limit.ceiling:
                raise InvalidField("ceiling", f"at most {limit.write(limit.ceiling)}")


def suspend(account: Account | None, *, by: str, reason: str = "") -> list[e.AnyEvent]:
    """Stop every key of the account until it resumes; quiet when it is suspended already.

    Raises:
        NoSuchAccount, AccountIsClosed: It cannot be.
    """
    account = require_not_closed(account)
    if account.status == "suspended":
        return []
    return [e.AccountSuspended(by=by, reason=reason)]


def resume(account: Account | None, *, by: str) -> list[e.AnyEvent]:
    """Let a suspended account work again; quiet when it is open.

    Raises:
        NoSuchAccount, AccountIsClosed: It cannot be.
    """
    account = require_not_closed(account)
    return [] if account.status == "open" else [e.AccountResumed(by=by)]


def close(account: Account | None, *, by: str, reason: str = "") -> list[e.AnyEvent]:
    """Close an account for good; quiet when it is closed already.

    Raises:
        NoSuchAccount: There is none.
    """
    account = require_account(account)
    if account.status == "closed":
        return []
    return [e.AccountClosed(by=by, reason=reason)]


def add_member(account: Account | None, member_id: str, role: str, *, by: str) -> list[e.AnyEvent]:
    """Let a person join with a role; quiet when they have it already.

    Raises:
        NoSuchAccount, AccountIsClosed, InvalidField: It cannot be.
    """
    account = require_not_closed(account)
    _check_role(role)
    held = account.members.get(member_id)
    if held == role:
        return []
    if held is not None:
        raise InvalidField("member_id", "is a member already, with another role")
    if len(account.members) >= MEMBERS_MAX:
        raise InvalidField("members", f"at most {MEMBERS_MAX}")
    return [e.MemberAdded(by=by, member_id=member_id, role=role)]


def change_role(account: Account | None, member_id: str, role: str, *, by: str) -> list[e.AnyEvent]:
    """Change a member's role; quiet when it is the same.

    Raises:
        NoSuchMember, LastOwnerStays, NoSuchAccount, AccountIsClosed, InvalidField: It cannot be.
    """
    account = require_not_closed(account)
    _check_role(role)
    held = account.members.get(member_id)
    if held is None:
        raise NoSuchMember
    if held == role:
        return []
    _require_other_owner(account, member_id)
    return [e.MemberRoleChanged(by=by, member_id=member_id, role=role)]


def remove_member(account: Account | None, member_id: str, *, by: str) -> list[e.AnyEvent]:
    """Take a member out of the account.

    Raises:
        NoSuchMember, LastOwnerStays, NoSuchAccount, AccountIsClosed: It cannot be.
    """
    account = require_not_closed(account)
    if member_id not in account.members:
        raise NoSuchMember
    _require_other_owner(account, member_id)
    return [e.MemberRemoved(by=by, member_id=member_id)]


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidField("role", "must be one of " + ", ".join(ROLES))


def _require_other_owner(account: Account, member_id: str) -> None:
    owners = [member for member, role in account.members.items() if role == "owner"]
    if owners == [member_id]:
        raise LastOwnerStays
