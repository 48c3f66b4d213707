"""Who sends a request: tokens in headers and cookies, passwords, sessions, and limits on guessing."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import argon2
import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.server.access import ANONYMOUS, Principal
from cetool.server.config import ServerConfig
from cetool.server.data import accounts, audit, tokens
from cetool.server.data.audit import Act
from cetool.server.data.database import Database, now
from cetool.server.data.tokens import NewToken

#: 46 MiB and 0.1 s: twice the time that OWASP asks for with so much memory.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=46 * 1024, parallelism=1)
#: Passwords that are hashed at once, and how many more may wait: each takes memory and a thread.
_AT_ONCE, _WAITING = 2, 8
_SHORTEST, _LONGEST = 8, 1000
#: Seconds between two writes of when tokens were last used.
_EVERY = 60.0
#: Addresses and accounts that are remembered.
_MOST = 10_000


class LimitedError(CetoolError):
    """Too many attempts; ``retry_after`` is in seconds."""

    code = "rate-limited"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, code="rate-limited", hint=f"Try again in {max(1, round(retry_after))} seconds.")
        self.retry_after = retry_after


class Limiter:
    """Counts attempts by key: ``most`` at once, and as many per minute. It remembers the latest 10,000 keys."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Count an attempt; return 0, or the seconds to wait if there were too many."""
        moment = time.monotonic()
        with self._lock:
            left, since = self._left.pop(key, (self._most, moment))
            left = min(self._most, left + (moment - since) * self._most / 60)
            self._left[key] = (max(0.0, left - 1) if left >= 1 else left, moment)
            if len(self._left) > _MOST:
                self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._most

    def give_back(self, key: str) -> None:
        """Do not count an attempt, since it succeeded."""
        with self._lock:
            if key in self._left:
                left, since = self._left[key]
                self._left[key] = (min(self._most, left + 1), since)


@dataclass(frozen=True, slots=True)
class Session:
    """A login that succeeded."""

    #: The cookie's value.
    secret: str
    principal: Principal
    #: Seconds that it lasts.
    lifetime: float


class Login:
    """Authenticates requests and logs users in. Threads may share it; :meth:`close` writes what is left to write."""

    def __init__(self, database: Database, config: ServerConfig) -> None:
        self._database = database
        self._config = config
        self._predefined = {
            tokens.digest_of(each.token): Principal(
                each.name,
                namespace=each.namespace,
                grants=accounts.configured_grants(each.grants),
                authenticated=True,
                kind="predefined",
            )
            for each in config.tokens
        }
        for user in config.users:
            accounts.configured_grants(user.grants)  # a wrong role is an error at the start
        self._hashes = {each.name: each.password for each in config.users}
        self._unknown = ""
        self._by_address, self._by_account = Limiter(config.login_attempts), Limiter(config.login_attempts)
        #: Where users logged in from, who are not locked out if others guess their passwords.
        self._familiar: OrderedDict[str, None] = OrderedDict()
        self._hashing, self._places = threading.Semaphore(_AT_ONCE), threading.Semaphore(_AT_ONCE + _WAITING)
        self._uses: dict[int, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._writer: threading.Thread | None = None

    # --- requests -----------------------------------------------------------------------------------------------------

    def identify(self, authorization: str | None, cookie: str | None) -> tuple[Principal, bool]:
        """Return who sends a request with this header and cookie, and whether the cookie says so.

        A token in the header that can be used wins over one in the cookie, and that over none.
        """
        problem = ""
        with self._database.read() as tx:
            for secret, by_cookie in ((_from_header(authorization), False), (cookie, True)):
                if secret is None:
                    continue
                known = self._predefined.get(tokens.digest_of(secret))
                if known is not None:
                    return known, by_cookie
                found, moment = tokens.find(tx, secret), now(tx)
                trouble = "the token is unknown" if found is None else found.problem(moment)
                if found is not None and not trouble:
                    self._note_use(found.id, moment)
                    return accounts.principal_of(tx, found, self._config), by_cookie
                problem = problem or trouble
            return accounts.anonymous(tx, self._config, problem), False

    def current(self, principal: Principal) -> Principal:
        """Return the principal with the rights of now: anonymous if the token has been revoked or has expired."""
        if principal.kind == "predefined":
            return principal
        with self._database.read() as tx:
            found = None if principal.token_id is None else tokens.get(tx, principal.token_id)
            trouble = "" if found is None else found.problem(now(tx))
            if found is None or trouble:
                return accounts.anonymous(tx, self._config, trouble)
            return accounts.principal_of(tx, found, self._config)

    # --- logging in and out -------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str, address: str) -> Session:
        """Log in with a user's password, or with any name and a token as the password.

        Raises LimitedError, and CetoolError with the code ``not-allowed`` for a wrong name or password.
        """
        # a token cannot be guessed, and comes with any name: its user's attempts are not counted
        by_token = password.startswith(tokens.PREFIX) or tokens.digest_of(password) in self._predefined
        with self._attempt("" if by_token else name, address):
            session = self._with_token(password, address) if by_token else self._with_password(name, password, address)
            if session is None:
                raise self._wrong(name, address)
        return session

    def check_password(self, name: str, password: str, address: str) -> None:
        """Raise CetoolError, as :meth:`log_in`, unless it is the user's password."""
        with self._attempt(name, address):
            if not self._is_password(name, password):
                raise self._wrong(name, address)

    def is_configured(self, name: str) -> bool:
        """Return whether the password of a user is in the configuration."""
        return name in self._hashes

    def hashed(self, password: str) -> str:
        """Return the hash of a new password. Raises CetoolError for one that is too short, LimitedError."""
        with self._place():
            return hash_password(password)

    @contextlib.contextmanager
    def _attempt(self, name: str, address: str) -> Iterator[None]:
        """Count an attempt unless it succeeds."""
        account, place = f"user {name[:_LONGEST]}", _network(address)
        home = f"{account} {place}"
        self._limit(self._by_address, place, "from this address")
        if name and home not in self._familiar:
            self._limit(self._by_account, account, "as this user")
        yield
        self._by_address.give_back(place)
        if not name:
            return
        self._by_account.give_back(account)
        with self._lock:
            self._familiar[home] = None
            self._familiar.move_to_end(home)
            if len(self._familiar) > _MOST:
                self._familiar.popitem(last=False)

    def _wrong(self, name: str, address: str) -> CetoolError:
        with self._database.write() as tx:
            audit.write(tx, Act(ANONYMOUS, "refused login", f"user {name}", address=address))
        return CetoolError(
            "the user name or the password is wrong",
            code="not-allowed",
            about="login",
            hint="You can also log in with a token as the password.",
        )

    def log_out(self, secret: str, address: str) -> None:
        """End the session of a cookie; one that is unknown has ended."""
        with self._database.write() as tx:
            found = tokens.find(tx, secret)
            if found is not None and found.kind == "session" and tokens.revoke(tx, found.id):
                audit.write(tx, Act(found.user or found.name, "logout", f"session {found.id}", address=address))

    def _limit(self, limiter: Limiter, key: str, how: str) -> None:
        wait = limiter.take(key)
        if wait:
            raise LimitedError(f"too many attempts to log in {how}", wait)

    def _with_token(self, secret: str, address: str) -> Session | None:
        known = self._predefined.get(tokens.digest_of(secret))
        if known is not None:
            # it has no row that a session could refer to, and cannot be revoked: the cookie is the token
            return Session(secret, known, self._config.session_lifetime)
        with self._database.write() as tx:
            found = tokens.find(tx, secret)
            if found is None or found.kind == "session" or found.problem(now(tx)):
                return None
            base = NewToken(found.name, found.by, found.user_id, found.namespace, found.grants, found.expires, found.id)
            return self._session(tx, base, address)

    def _is_password(self, name: str, password: str) -> bool:
        with self._database.read() as tx:
            found = accounts.find_user(tx, name)
        configured = self._hashes.get(name)
        if configured is not None and not configured.startswith("$argon2"):
            configured = self._hashes[name] = hash_password(configured, check=False)
        right = self._verified(configured or (found.password if found is not None else None), password)
        return right and (found is None or found.disabled is None)

    def _with_password(self, name: str, password: str, address: str) -> Session | None:
        if not self._is_password(name, password):
            return None
        with self._database.write() as tx:
            user = accounts.find_user(tx, name)
            if user is None:
                primary = next((each.namespace for each in self._config.users if each.name == name), None)
                if primary is None:  # removed while the password was checked
                    return None
                user = accounts.add_user(tx, name, password=None, primary=primary)
            base = NewToken(f"login from {address}", name, user.id, user.namespace)
            return self._session(tx, base, address)

    def _session(self, tx: sa.Connection, base: NewToken, address: str) -> Session:
        """Add the session of a token, which ends with it."""
        tokens.prune(tx)
        moment = now(tx)
        end = moment + self._config.session_lifetime
        end = end if base.expires is None else min(end, base.expires)
        secret, added = tokens.create(tx, replace(base, kind="session", expires=end))
        principal = accounts.principal_of(tx, added, self._config)
        audit.write(tx, Act(principal.name, "login", f"session {added.id}", address=address))
        return Session(secret, principal, end - moment)

    def _verified(self, hashed: str | None, password: str) -> bool:
        """Return whether a password has this hash; takes as long if there is none."""
        with self._place():
            if hashed is None:
                self._unknown = self._unknown or _HASHER.hash(tokens.new_secret())
            return _matches(hashed or self._unknown, password) and hashed is not None

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Wait for a turn to hash a password. Raises LimitedError if too many wait."""
        if not self._places.acquire(blocking=False):
            raise LimitedError("too many users log in at once", 5)
        try:
            with self._hashing:
                yield
        finally:
            self._places.release()

    # --- last use -----------------------------------------------------------------------------------------------------

    def _note_use(self, number: int, moment: float) -> None:
        """Remember that a token was used; a thread writes it within a minute."""
        with self._lock:
            self._uses[number] = moment
            if self._writer is None and not self._closed.is_set():
                self._writer = threading.Thread(target=self._write_uses, name="last-used", daemon=True)
                self._writer.start()

    def _write_uses(self) -> None:
        while not self._closed.wait(_EVERY):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            uses, self._uses = self._uses, {}
        if uses:
            # a lost note does no harm, and the thread has to go on
            with contextlib.suppress(Exception), self._database.write() as tx:
                tokens.touch(tx, uses)

    def close(self) -> None:
        """Write when tokens were last used, and end the thread."""
        self._closed.set()
        if self._writer is not None:
            self._writer.join(5)
        self._flush()


def hash_password(password: str, *, check: bool = True) -> str:
    """Return the hash of a password that is stored. Raises CetoolError for one that is too short or too long."""
    if check and not _SHORTEST <= len(password) <= _LONGEST:
        raise CetoolError(
            f"the password has {len(password)} characters",
            code="request-malformed",
            about="password",
            hint=f"Use {_SHORTEST} to {_LONGEST} characters.",
        )
    if check and password.startswith(tokens.PREFIX):
        raise CetoolError(
            f"the password starts with {tokens.PREFIX}, as tokens do", code="request-malformed", about="password"
        )
    return _HASHER.hash(password.encode("utf-8", "surrogatepass"))


def _matches(hashed: str, password: str) -> bool:
    if len(password) > _LONGEST:
        return False
    try:
        return _HASHER.verify(hashed, password.encode("utf-8", "surrogatepass"))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _from_header(header: str | None) -> str | None:
    """Return the token in a header: ``Bearer TOKEN``, or ``Basic`` with any user name; None if there is none."""
    scheme, _, value = (header or "").strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value or None
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2] or None
    return None


def _network(address: str) -> str:
    """Return what an address counts as: an IPv6 address as its /64, which one machine may have all of."""
    with contextlib.suppress(ValueError):
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            mapped = found.ipv4_mapped
            return str(mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return address[:100]
