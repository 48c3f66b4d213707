"""Grants add up, scopes limit, and every refusal has a reason."""

from __future__ import annotations

import itertools
import time

import pytest

from cetool.base.errors import CetoolError
from cetool.server import access
from cetool.server.access import PERMISSIONS, ROLES, Grant, Principal, Reach


def somebody(*grants: tuple[str, str], scope: list[tuple[str, str]] | None = None) -> Principal:
    given = tuple(Grant(pattern, role, "granted to ana") for pattern, role in grants)
    limit = None if scope is None else tuple(Grant(pattern, role) for pattern, role in scope)
    return Principal("ana", 1, 2, "ana", given, limit, authenticated=True, kind="token")


def test_each_role_has_the_permissions_of_the_one_before_it() -> None:
    assert len(set(PERMISSIONS)) == 17 and set().union(*ROLES.values()) == set(PERMISSIONS)
    roles = list(ROLES.values())
    assert all(less < more for less, more in itertools.pairwise(roles))
    # conda-store's developer, which is editor here
    assert ROLES["editor"] == {
        *("environment:create", "environment::read", "environment::update", "environment::solve", "build::cancel"),
        *("namespace::read", "namespace-role-mapping::read", "setting::read"),
    }
    assert access.role_named("developer") == "editor"


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        *(("a", "a", True), ("a", "ab", False), ("*", "", True), ("*", "a", True), ("a*", "abc", True)),
        *(("a*c", "abc", True), ("a*c", "ac", True), ("a*a", "a", False), ("*a*b*", "xaxbx", True)),
        *(("*a*b*", "xbxax", False), ("a*", "a*", True), ("a*", "*", False), ("ab*", "a*", False)),
        *(("*", "*", True), ("a?c", "abc", False), ("a?c", "a?c", True), ("a.c", "abc", False), ("A", "a", False)),
    ],
)
def test_a_pattern_matches_any_run_of_characters(pattern: str, text: str, expected: bool) -> None:
    assert access.matches(pattern, text) is expected


def test_a_hostile_pattern_is_matched_in_linear_time() -> None:
    started = time.process_time()
    assert not access.matches("*a" * 120 + "b", "a" * 255)
    assert time.process_time() - started < 1


def test_grants_add_up() -> None:
    ana = somebody(("team/*", "viewer"), ("team/gpu-*", "editor"))
    assert access.allows(ana, "environment::read", "team", "cpu")
    assert access.allows(ana, "environment::update", "team", "gpu-1")
    assert not access.allows(ana, "environment::update", "team", "cpu")
    assert not access.allows(ana, "environment::update", "team")
    assert not access.allows(ana, "environment::read", "other", "cpu")


def test_a_grant_on_one_environment_gives_no_right_on_its_namespace_but_to_see_it() -> None:
    ana = somebody(("team/mine", "admin"))
    assert access.allows(ana, "namespace::read", "team")
    given = {permission for permission in PERMISSIONS if access.allows(ana, permission, "team")}
    assert given == {"namespace::read"}
    assert access.allows(ana, "environment::delete", "team", "mine")


def test_a_name_with_a_star_is_not_a_way_around() -> None:
    ana = somebody(("team/mine", "admin"), ("te*/x", "admin"))
    assert not access.allows(ana, "environment::read", "*", "*")
    assert not access.allows(ana, "environment::read", "team", "*")
    assert not access.allows(ana, "environment::read", "team", "mi*")


def test_a_scope_limits_a_token_to_rights_that_the_user_has() -> None:
    ana = somebody(("team/*", "editor"), scope=[("*/*", "viewer"), ("other/*", "admin")])
    assert access.allows(ana, "environment::read", "team", "x")
    assert not access.allows(ana, "environment::update", "team", "x")
    assert not access.allows(ana, "environment::read", "other", "x")
    assert access.effective(ana) == {"team/*": "viewer"}
    assert access.reach(ana) == Reach((("team", "*"),), (("*", "*"),))


def test_only_an_administrator_of_everything_administers_the_server() -> None:
    assert access.is_administrator(somebody(("*/*", "admin")))
    assert not access.is_administrator(somebody(("*/*", "editor"), ("team/*", "admin")))
    assert not access.is_administrator(somebody(("*/*", "admin"), scope=[("*/*", "viewer")]))
    with pytest.raises(CetoolError) as raised:
        access.require_administrator(Principal("anonymous"))
    assert raised.value.code == "not-authenticated"


def test_a_refusal_names_the_right_and_the_place() -> None:
    with pytest.raises(CetoolError) as raised:
        access.require(somebody(("team/*", "viewer")), "environment:create", "team", "x")
    assert raised.value.code == "not-allowed"
    assert raised.value.message == "ana lacks the right environment:create on team/x"
    with pytest.raises(CetoolError) as raised:
        access.require(Principal("anonymous", problem="the token has expired"), "environment::read", "team")
    assert (raised.value.code, raised.value.message) == ("not-authenticated", "the token has expired")


def test_no_one_grants_more_than_they_have() -> None:
    ana = somebody(("team/*", "editor"))
    access.check_subset(ana, [Grant("team/x", "editor"), Grant("team/*", "viewer")])
    for grant in (Grant("team/x", "admin"), Grant("*/*", "viewer"), Grant("tea*/x", "viewer")):
        with pytest.raises(CetoolError) as raised:
            access.check_subset(ana, [grant])
        assert raised.value.code == "not-allowed"


def test_an_explanation_names_the_grant_or_what_is_missing() -> None:
    reasons = {each.permission: each for each in access.explain(somebody(("t*/*", "viewer")), "team")}
    assert list(reasons) == list(PERMISSIONS)
    assert reasons["environment::read"].text == "viewer on t*/* (granted to ana)"
    create = reasons["environment:create"]
    assert not create.allowed and create.text == "no grant: it needs the role contributor on team/*"
    limited = access.explain(somebody(("*/*", "admin"), scope=[("*/*", "viewer")]), "team")
    assert {each.text for each in limited if not each.allowed} == {"the token's scope excludes it"}


@pytest.mark.parametrize("text", ["", "/", "a/", "/b", "a/b/c", "a b/*", "a/\n", "a/%2f", "ä/*", "a" * 300])
def test_a_malformed_pattern_is_refused(text: str) -> None:
    with pytest.raises(CetoolError) as raised:
        access.pattern_named(text)
    assert raised.value.code == "request-malformed"


def test_a_namespace_alone_is_the_pattern_of_all_its_environments() -> None:
    assert access.pattern_named("team") == "team/*"
    assert access.pattern_named("**/a***b") == "*/a*b"
