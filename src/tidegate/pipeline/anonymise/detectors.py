"""What can be found in free text: patterns of RE2 (linear time), and checks of what they match.

Invariant: a detector names the exact bytes to hide; a number counts only where checksum, length and ranges are right.

Formats: card numbers ISO/IEC 7812, in ranges that the networks publish; IBAN ISO 13616; US SSN as issued since 2011;
UK NINO by HMRC's manual NIM39110; German tax ID (IdNr) ISO 7064 mod 11,10; French NIR with its key mod 97.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import re2
from msgspec import Struct

__all__ = ["DETECTORS", "Found", "Pattern", "luhn"]

Found = tuple[int, int]
"""Where it begins and ends."""
_SEPARATORS = b" -"


class Pattern(Struct, frozen=True):
    """A regular expression, and what of each match is to be hidden: by default its first group, or all of it."""

    regex: str
    check: Callable[[bytes, int], Iterator[Found]] | None = None
    """Given the matched bytes and where they begin."""

    def compiled(self) -> Any:
        """Raises re2.error."""
        options = re2.Options()
        options.log_errors = False
        return re2.compile(self.regex.encode(), options)

    def find(self, compiled: Any, text: bytes) -> Iterator[Found]:
        """Everything to be hidden in `text`, in order."""
        group = 1 if compiled.groups else 0
        for match in compiled.finditer(text):
            start, end = match.span(group)
            if self.check is None:
                if start >= 0:
                    yield start, end
            else:
                yield from self.check(text[start:end], start)


def luhn(digits: bytes) -> bool:
    """Whether the last of the ASCII digits is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = digit - 48
        total += number if place % 2 == 0 else number * 2 - 9 * (number > 4)
    return total % 10 == 0


_CARDS: tuple[tuple[int, int, int, range], ...] = (
    # digits of the prefix, from, to, lengths
    (1, 4, 4, range(13, 20)),  # Visa
    (2, 51, 55, range(16, 17)),  # Mastercard
    (4, 2221, 2720, range(16, 17)),  # Mastercard
    (2, 34, 34, range(15, 16)),  # American Express
    (2, 37, 37, range(15, 16)),  # American Express
    (2, 36, 36, range(14, 20)),  # Diners Club
    (2, 38, 39, range(14, 20)),  # Diners Club
    (3, 300, 305, range(14, 20)),  # Diners Club
    (4, 3528, 3589, range(16, 20)),  # JCB
    (4, 6011, 6011, range(16, 20)),  # Discover
    (3, 644, 659, range(16, 20)),  # Discover, RuPay
    (2, 60, 60, range(16, 17)),  # RuPay
    (2, 62, 62, range(16, 20)),  # UnionPay
    (2, 50, 50, range(12, 20)),  # Maestro
    (2, 56, 58, range(12, 20)),  # Maestro
    (2, 63, 63, range(12, 20)),  # Maestro
    (2, 67, 69, range(12, 20)),  # Maestro
    (4, 2200, 2204, range(16, 20)),  # Mir
)


def _is_card(digits: bytes) -> bool:
    return luhn(digits) and any(
        len(digits) in lengths and first <= int(digits[:size]) <= last for size, first, last, lengths in _CARDS
    )


def _groups(text: bytes, start: int) -> list[Found]:
    """The runs of letters and digits between separators."""
    groups: list[Found] = []
    begin = 0
    for place in range(len(text) + 1):
        if place == len(text) or text[place] in _SEPARATORS:
            if place > begin:
                groups.append((start + begin, start + place))
            begin = place + 1
    return groups


def _grouped(is_one: Callable[[bytes], bool], shortest: int, longest: int) -> Callable[[bytes, int], Iterator[Found]]:
    """A check for numbers that are written in one group or in several, between others of the same looks."""

    def check(text: bytes, start: int) -> Iterator[Found]:
        groups = _groups(text, start)
        first = 0
        while first < len(groups):
            digits = b""
            found = 0
            for last in range(first, len(groups)):
                digits += text[groups[last][0] - start : groups[last][1] - start]
                if len(digits) > longest:
                    break
                if len(digits) >= shortest and is_one(digits):
                    found = last + 1
            if found:
                yield groups[first][0], groups[found - 1][1]
                first = found
            else:
                first += 1

    return check


# Lengths by country, of those in ISO 13616's registry.
_IBAN = {
    code: int(size)
    for size, codes in (
        line.split(":")
        for line in (
            "15:NO",
            "16:BE",
            "18:DK FK FI FO GL NL SD",
            "19:MK SI",
            "20:AT BA EE KZ LT LU MN XK",
            "21:CH HR LI LV",
            "22:BG BH CR DE GB GE IE ME RS VA",
            "23:AE GI IL IQ OM SO TL",
            "24:AD CZ ES MD PK RO SA SE SK TN VG",
            "25:LY PT ST",
            "26:IS TR",
            "27:BI DJ FR GR IT MC MR SM",
            "28:AL AZ BY CY DO GT HN HU LB NI PL SV",
            "29:BR EG PS QA UA",
            "30:JO KW MU YE",
            "31:MT SC",
            "32:LC",
            "33:RU",
        )
    )
    for code in codes.split()
}


def _iban(text: bytes, start: int) -> Iterator[Found]:
    size = _IBAN.get(text[:2].decode())
    letters = [place for place, one in enumerate(text) if one != 32]
    if size is None or len(letters) < size:
        return
    letters = letters[:size]
    code = bytes(text[place] for place in letters)
    if int("".join(str(int(chr(one), 36)) for one in code[4:] + code[:4])) % 97 == 1:
        yield start, start + letters[-1] + 1


def _is_ssn(digits: bytes) -> bool:
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def _is_nino(text: bytes) -> bool:
    return text[:2] not in (b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ")


def _is_de_tax_id(digits: bytes) -> bool:
    if len(digits) != 11 or digits[:1] == b"0":
        return False
    product = 10
    for digit in digits[:10]:
        total = (digit - 48 + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == digits[10] - 48


def _is_nir(text: bytes) -> bool:
    # Corsica's departments 2A and 2B count as 19 and 18.
    number = text[:13].replace(b"2A", b"19").replace(b"2B", b"18")
    if not number.isdigit() or not text[13:].isdigit():
        return False
    return 97 - int(number) % 97 == int(text[13:])


def _checked(is_one: Callable[[bytes], bool]) -> Callable[[bytes, int], Iterator[Found]]:
    def check(text: bytes, start: int) -> Iterator[Found]:
        if is_one(bytes(one for one in text if one not in _SEPARATORS)):
            yield start, start + len(text)

    return check


def _email(text: bytes, start: int) -> Iterator[Found]:
    # Pseudonyms of addresses, which earlier steps have put there, stay.
    if not text.endswith(b".invalid"):
        yield start, start + len(text)


# Any letters of Unicode, written so that the automaton stays small. Neither = nor /: `user=ann@example.com`.
_ATOM = r"[A-Za-z0-9.!#$%&*+?^_~\x{80}-\x{10FFFF}-]"
_LABEL = r"[A-Za-z0-9\x{80}-\x{10FFFF}-]"
_NAMES_OF_SECRETS = (
    r"(?:pass(?:word|wd|phrase|code)|passw|pwd|secret(?:[_-]?(?:access)?[_-]?key)?|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|client[_-]?secret|(?:access|refresh|auth|session|id|api)[_-]?token|token|credentials?)"
)
_ASSIGNED = rf"(?i){_NAMES_OF_SECRETS}[\\\\\"']{{0,4}}[ \t]{{0,4}}(?:=>|:=|=|:)[ \t]{{0,4}}"

DETECTORS: dict[str, tuple[Pattern, ...]] = {
    "private_key": (
        Pattern(
            r"(?s)-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----.*?"
            r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\z)"
        ),
    ),
    "token": (
        Pattern(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),  # AWS access keys
        Pattern(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,})"),
        Pattern(r"\bx(?:ox[abeoprs]|app)-[A-Za-z0-9-]{10,}"),  # Slack
        Pattern(r"\bhooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/]{20,})"),
        Pattern(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"),  # JWT: a JSON object in base64
        Pattern(r"(?i)\bbearer[ \t]+([a-z0-9._~+/-]{8,}=*)"),
        Pattern(
            r"(?i)\bauthorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:basic|digest|negotiate)[ \t]+([a-z0-9._~+/=-]{4,})"
        ),
    ),
    "password": (
        Pattern(rf"{_ASSIGNED}\"((?:[^\"\\]|\\.)+)"),
        Pattern(rf"{_ASSIGNED}\\\"((?:[^\"\\]|\\[^\"])+)"),  # in a JSON text inside another
        Pattern(rf"{_ASSIGNED}'([^']+)"),
        Pattern(rf"{_ASSIGNED}([^\s,;&\"'\\()<>\[\]{{}}][^\s,;&\"']*)"),
        Pattern(rf"(?i)\B--?{_NAMES_OF_SECRETS}[ \t]+[\"']?([^\s\"']+)"),
        Pattern(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@"),  # user information of a URL
    ),
    "email": (Pattern(rf"{_ATOM}+(?:'{_ATOM}+)*@(?:{_LABEL}+\.)+{_LABEL}{{2,}}", _email),),
    "iban": (Pattern(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}", _iban),),
    "card": (Pattern(r"\b[0-9](?:[ -]?[0-9]){11,}\b", _grouped(_is_card, 12, 19)),),
    "phone": (Pattern(r"\+[1-9][0-9]{0,2}[ ./-]?(?:\(0?[0-9]{1,5}\)[ ./-]?)?[0-9](?:[ ./-]?[0-9]){5,12}\b"),),
    "us_ssn": (Pattern(r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", _checked(_is_ssn)),),
    "uk_nino": (
        Pattern(
            r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]\b",
            _checked(_is_nino),
        ),
    ),
    "de_tax_id": (Pattern(r"\b[0-9](?: ?[0-9]){10,}\b", _grouped(_is_de_tax_id, 11, 11)),),
    "fr_nir": (
        Pattern(
            r"\b[1-478][ ]?[0-9]{2}[ ]?[0-9]{2}[ ]?(?:[0-9]{2}|2[AB])[ ]?[0-9]{3}[ ]?[0-9]{3}[ ]?[0-9]{2}\b",
            _checked(_is_nir),
        ),
    ),
}
"""By name, in the order of precedence where two begin at the same place."""
