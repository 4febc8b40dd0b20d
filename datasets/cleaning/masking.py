"""What is masked: patterns that are told apart from ordinary text reliably, in linear time.

Every pattern starts where no character of its own class stands before, or with fixed text, and
what it repeats is bounded: no text makes it try again from every place.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

KINDS = ("email", "key", "iban", "phone")
# Names of roles and ids say how parts belong together.
_KEPT = frozenset({"role", "type", "id", "tool_call_id"})

# Letters of alphabets that separate words by spaces, with marks that combine, and full-width ones.
# Without the spaces, it cannot be told where an address begins.
_LETTERS = (
    "A-Za-z\u00c0-\u024f\u0300-\u036f\u0370-\u03ff\u0400-\u052f\u1e00-\u1eff"
    "\uff21-\uff3a\uff41-\uff5a"
)
_DIGITS = "0-9\uff10-\uff19"
_LOCAL = rf"{_LETTERS}{_DIGITS}._%+\uff0e-"
_AT = "@\ufe6b\uff20"  # small and full-width as well
_EMAIL = re.compile(
    rf"(?:(?<![{_LOCAL}])[{_LOCAL}]{{1,64}}|\"(?:[^\"\\\n]|\\.){{1,64}}\")"
    rf"[{_AT}](?:[{_LETTERS}{_DIGITS}-]{{1,63}}[.\uff0e]){{1,8}}"
    rf"[{_LETTERS}]{{2,24}}(?![{_LETTERS}{_DIGITS}-])"
)
_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-[A-Za-z0-9_-]{20,200}"  # OpenAI, Anthropic
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,128}"  # Stripe
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|xox[abposr]-[A-Za-z0-9-]{10,250}"  # Slack
    r"|hf_[A-Za-z0-9]{30,64}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}"  # SendGrid
    r"|do[opr]_v1_[a-f0-9]{64}"  # DigitalOcean
    r"|gsk_[A-Za-z0-9]{40,64}|xai-[A-Za-z0-9]{60,100}|r8_[A-Za-z0-9]{37}"  # Groq, xAI, Replicate
    r"|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,500}"  # Google OAuth
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}"  # Shopify, Square
    r"|dapi[a-f0-9]{32}|hvs\.[A-Za-z0-9_-]{24,200}"  # Databricks, Vault
    r"|eyJ[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"  # JWT
    r")(?![A-Za-z0-9_-])"
)
_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z]{1,20} ){0,3}PRIVATE KEY-----(?:[^-]|-(?!-)){0,10000}"
    r"-----END (?:[A-Z]{1,20} ){0,3}PRIVATE KEY-----"
)
_BEARER = re.compile(r"(?<![A-Za-z0-9])([Bb]earer )[A-Za-z0-9._~+/=-]{20,2000}")
# What keys are assigned to, as in code, settings and logs.
_NAME = (
    r"(?<![A-Za-z0-9])((?i:api[_-]?key|secret[_-]?(?:access[_-]?)?key|access[_-]?token"
    r"|auth[_-]?token|client[_-]?secret|token|secret"
)
_ASSIGNED = re.compile(
    _NAME + r"|password)[\"']?\s{0,3}[:=]\s{0,3}([\"']))[A-Za-z0-9_./+=-]{16,200}(?=\2)"
)
# Without quotes, only what does not look like a name.
_SECRET = re.compile(
    _NAME + r")\s{0,3}[:=]\s{0,3})"
    r"(?=[A-Za-z/+=-]{0,200}[0-9])(?=[0-9/+=-]{0,200}[A-Za-z])"
    r"[A-Za-z0-9/+=-]{20,200}(?![A-Za-z0-9_/+=(.\[-])"
)
# A password is short: it has a digit, or a sign between letters. No variable, call, path or address
# in its place.
_IN_PASSWORD = r"(?:[^\s\"'`<>,;(){}\[\]|\\&]|&(?![A-Za-z_]{1,30}=))"
_ASSIGNED_PASSWORD = re.compile(
    r"((?i:password|passwd|passphrase|pwd)(?:\\?[\"'])?[ \t]{0,3}(?:=>|[:=])[ \t]{0,3}"
    r"(?:\\?[\"'])?)"
    r"(?![*%/~.:=-]|\$[A-Za-z_]|[A-Za-z]{2,10}://|[\w.]{0,40}(?i:pass|pwd|secret|token))"
    rf"(?={_IN_PASSWORD}{{0,64}}?(?:[0-9]|[A-Za-z][!@#$^*][A-Za-z]))"
    rf"{_IN_PASSWORD}{{6,200}}(?!{_IN_PASSWORD}|[(\[{{<])"
)
# A password in an address, but not the name of a variable in its place.
_PASSWORD = re.compile(
    r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@]{0,64}:)"
    r"(?![$<{\[]|%[s(])[^\s/@]{1,200}(?=@[A-Za-z0-9\[])"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
# International form only: without the sign any number looks like one.
_PHONE = re.compile(r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}[0-9]){7,14}(?![0-9])")
# Characters of an IBAN by country (ISO 13616 registry).
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU", 31: "MT SC", 32: "LC",
    }.items()
    for code in codes.split()
}  # fmt: skip


def mask(value: Any, kinds: Sequence[str], found: Counter[str]) -> Any:
    """Return ``value`` with the texts in it masked; ``found`` counts the masks by kind."""
    if isinstance(value, str):
        for kind, masked in _MASKS.items():
            if kind in kinds:
                value = masked(value, found)
        return value
    if isinstance(value, list):
        return [mask(item, kinds, found) for item in value]
    if isinstance(value, dict):
        return {
            name: item if name in _KEPT and isinstance(item, str) else mask(item, kinds, found)
            for name, item in value.items()
        }
    return value


def _emails(text: str, found: Counter[str]) -> str:
    if any(sign in text for sign in _AT):
        return _replace(text, _EMAIL, "email", found)
    return text


def _keys(text: str, found: Counter[str]) -> str:
    for pattern in (_BLOCK, _KEY):
        text = _replace(text, pattern, "key", found)
    for pattern in (_BEARER, _ASSIGNED, _SECRET, _ASSIGNED_PASSWORD, _PASSWORD):
        text, count = pattern.subn(r"\1[KEY]", text)
        if count:
            found["key"] += count
    return text


def _phones(text: str, found: Counter[str]) -> str:
    return _replace(text, _PHONE, "phone", found) if "+" in text else text


def _replace(text: str, pattern: re.Pattern[str], kind: str, found: Counter[str]) -> str:
    text, count = pattern.subn(f"[{kind.upper()}]", text)
    if count:
        found[kind] += count
    return text


def _ibans(text: str, found: Counter[str]) -> str:
    pieces: list[str] = []
    done = 0
    for match in _IBAN.finditer(text):
        end = _iban_end(match[0])
        if end is None:
            continue
        pieces += [text[done : match.start()], "[IBAN]"]
        done = match.start() + end
        found["iban"] += 1
    return "".join([*pieces, text[done:]]) if pieces else text


def _iban_end(text: str) -> int | None:
    """Return where the IBAN ends that ``text`` begins with, or None if there is none. Its length is
    that of its country, and its checksum is valid (ISO 7064, mod 97-10)."""
    length = _IBAN_LENGTHS.get(text[:2])
    if length is None:
        return None
    end = next(
        (end for end in range(length, len(text) + 1) if end - text[:end].count(" ") == length), None
    )
    if end is None or text[end : end + 1].isalnum():
        return None
    characters = text[:end].replace(" ", "")
    moved = characters[4:] + characters[:4]
    return end if int("".join(str(int(digit, 36)) for digit in moved)) % 97 == 1 else None


# The keys first: a password before the name of a host looks like an address.
_MASKS: dict[str, Callable[[str, Counter[str]], str]] = {
    "key": _keys,
    "email": _emails,
    "iban": _ibans,
    "phone": _phones,
}
