from collections.abc import Iterable

def check_token(value: str | bytes) -> bytes:
    """Refuse what is no token: a method or a field name (RFC 9110, section 5.6.2).

    Returns
    -------
    bytes
        The octets of `value`; a `str` is ISO-8859-1.

    Raises
    ------
    ValueError
        Names the position of the first octet that a token cannot hold, but not the value.
    """

def check_field_value(value: str | bytes) -> bytes:
    """Refuse what is no field value: control characters other than HTAB (RFC 9110, section 5.5).

    Returns
    -------
    bytes
        The octets of `value`; a `str` is ISO-8859-1.

    Raises
    ------
    ValueError
        Names the position of the first octet that a field value cannot hold, but not the value.
    """

def check_target(value: str | bytes) -> bytes:
    """Refuse what is no request target: all but visible ASCII (RFC 9112, section 3.2).

    Returns
    -------
    bytes
        The octets of `value`.

    Raises
    ------
    ValueError
        Names the position of the first octet that a target cannot hold, but not the value.
    """

def request_head(
    method: str | bytes,
    target: str | bytes,
    fields: Iterable[tuple[str | bytes, str | bytes]] = (),
    *,
    byte_range: tuple[int, int | None] | None = None,
    content_length: int | None = None,
) -> bytes:
    """The head of a request, the empty line included (RFC 9112, sections 3 and 5).

    Parameters
    ----------
    method, target : str or bytes
        Of the request line.
    fields : iterable of (name, value)
        Field lines, in this order.
    byte_range : (start, end), optional
        Adds a Range field. The end offset is exclusive; with an end of None the range goes to the
        end of the object, and a negative start then counts from there.
    content_length : int, optional
        Adds a Content-Length field.

    Raises
    ------
    ValueError
        Something would break out of its line, or the range is empty. See `check_token`,
        `check_target`, `check_field_value`.
    """
