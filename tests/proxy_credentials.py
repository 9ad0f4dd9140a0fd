"""Credentials of a proxy, and what shows that they are shown nowhere."""

from __future__ import annotations

import base64

__all__ = [
    "AUTHORIZATION",
    "PASSWORD",
    "USER",
    "USERINFO",
    "nothing_secret",
    "shown",
    "with_credentials",
]

USER, PASSWORD = "user", "p@ss:w/rd"
USERINFO = "user:p%40ss%3Aw%2Frd"
AUTHORIZATION = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
# However it is written, and any part of it that some parser may have cut off.
_SECRETS = (PASSWORD, USERINFO, AUTHORIZATION.split()[1], "w%2Frd", "w/rd")


def with_credentials(url: str) -> str:
    """The URL of a proxy, with the credentials in it."""
    return url.replace("://", f"://{USERINFO}@")


def nothing_secret(text: str) -> None:
    """Fail where the text shows the password.

    Raises
    ------
    AssertionError
        With the text.
    """
    assert not [secret for secret in _SECRETS if secret in text], text


def shown(error: BaseException) -> str:
    """All that a traceback could show of an error."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{cause} {cause!r} {cause.__dict__}")
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)
