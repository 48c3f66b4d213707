"""URLs with a secret in every place and spelling."""

from __future__ import annotations

#: Must not be shown or stored.
SECRET = "sEcReT2468"

_USERINFO = """
user:{}@ {}@ {}:@ {}:x-oauth-basic@ user:p@{}@ user:p@@{}@ user:pa'{}@ user:pa"{}@ user:pa/{}@ user:pa#{}@ user:pa?{}@
user:pa\\{}@ user:/{}@ user::{}@ user:12'{}@ user:<{}>@ user:pa`{}@ user:pa%40{}@ user:[{}]@ user:${}@ us%65r:{}@
"""
_PARAMETERS = """
token TOKEN access_token auth_token job_token refresh_token private-token private_token apikey apiKey api_key api-key
X-Api-Key key subscription-key password passwd pwd secret client_secret clientSecret jwt sig signature X-Amz-Signature
X-Amz-Security-Token X-Amz-Credential AWSAccessKeyId X-Goog-Signature code auth sas %74oken
X-Auth cred user_pass ticket hmac
"""
#: Each with ``{}`` for the secret.
FORMS = (
    *(f"https://{form}host.example/ch" for form in _USERINFO.split()),
    *(f"https://{form}host.example/ch" for form in ("user:pa {}@", "user:p@a {}@", "user:12 {}@")),
    "HTTPS://user:{}@host.example/ch",
    "https://user:{}@[::1]:8080/ch",
    "https:user:{}@host.example/ch",
    "https:/user:{}@host.example/ch",
    "https:///user:{}@host.example/ch",
    "ftp://user:{}@host.example/ch",
    "git+https://user:{}@host.example/repo.git@v1.0",
    "https://proxy.example/https://user:{}@host.example/ch",
    "https://proxy.example/?url=https%3A%2F%2Fuser%3A{}%40host.example%2Fch",
    *(
        f"https://host.example{path}"
        for path in ("/t/{}/ch", "/T/{}/ch", "/a/t/{}/ch", "/t/one/t/{}/ch", "/%74/{}/ch", "/%54/{}/ch", "/t//{}/ch")
    ),
    *(f"https://host.example/ch?{name}={{}}" for name in _PARAMETERS.split()),
    "https://host.example/ch?a=1&token={}&b=2",
    "https://host.example/ch?a=1;token={};b=2",
    "https://host.example/ch?token=a/{}",
    "https://host.example/ch?token=a@{}",
    "https://host.example/ch?token=a'{}",
    "https://host.example/ch;token={}/label",
    "https://host.example/ch#access_token={}",
    "https://host.example/ch#a=b&token={}",
)
