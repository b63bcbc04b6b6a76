"""Characters of a troff input line: escapes, special characters and quoted arguments, as in groff(7) and groff_char(7)."""

import re
import unicodedata
from collections.abc import Callable

_NAMES = r"""
hy -   - -   mi -   em —   en –   aq '   dq "   lq “   rq ”   oq ‘   cq ’   Bq „   bq ‚   Fo «   Fc »   fo ‹   fc ›   ha ^   ti ~   ga `   aa ´   a^ ^
a~ ~   ad ¨   ac ¸   rs \   sl /   ul _   ru _   ba |   br |   or |   bb ¦   sh #   Do $   at @   lB [   rB ]   lC {   rC }   la ⟨   ra ⟩   bu •
sq □   ci ○   dg †   dd ‡   sc §   ps ¶   OK ✓   pc ·   md ·   co ©   rg ®   tm ™   de °   fm ′   sd ″   Of ª   Om º   r! ¡   r? ¿   ss ß   ae æ
AE Æ   oe œ   OE Œ   o/ ø   O/ Ø   /o ø   /O Ø   oa å   oA Å   -D Ð   Sd ð   Tp þ   TP Þ   i. ı   eu €   Eu €   Po £   Ye ¥   ct ¢   Cs ¤   Fn ƒ
12 ½   14 ¼   34 ¾   S1 ¹   S2 ²   S3 ³   +- ±   mu ×   di ÷   eq =   == ≡   != ≠   <= ≤   >= ≥   ~= ≅   ~~ ≈   ap ∼   pl +   ** *   no ¬   if ∞
is ∫   pd ∂   sr √   -> →   <- ←   <> ↔   ua ↑   da ↓   rA ⇒   lA ⇐   mo ∈   nm ∉   *a α   *b β   *g γ   *d δ   *e ε   *l λ   *m μ   mc µ   *p π
*r ρ   *s σ   *W Ω   *D Δ
""".split()
_CHARACTERS = dict(zip(_NAMES[::2], _NAMES[1::2], strict=True))
"""Names of special characters and what they look like."""
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ":": "\u0308", ",": "\u0327", "v": "\u030c"}
_MARKS = {"'": "'", "`": "`", "-": "-", "_": "_", ".": ".", "e": "\\", "\\": "\\", "~": " ", " ": " ", "0": " ", "t": " "}
_ESCAPE = re.compile(
    r"""\\(?:
      [fFmMgkVYn][+-]?(?:\[[^\]]{0,80}\]|\(..|.)?                # fonts, colours, registers: not to be seen
    | s[+-]?(?:\(..|\[[^\]]{0,80}\]|'[^']{0,80}'|[1-3]\d|\d)     # size of type
    | [(](?P<two>..) | \[(?P<long>[^\]]{0,80})\] | C'(?P<named>[^']{0,80})' | N'(?P<code>\d{1,7})'
    | \*(?:\((?P<string>..)|\[(?P<string_long>[^\]]{0,80})\]|(?P<string_one>.))
    | [hvwlLDobxXHSRABZ]'(?:[^'\\]|\\w'[^']{0,80}'|\\.){0,80}'   # motions and drawing
    | !.* | (?P<mark>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
"""What is in brackets and quotes is bounded, or a line of opening brackets alone would take time in the square of its length."""
_COMMENT = re.compile(r'(?<!\\)((?:\\\\)*)\\["#].*', re.DOTALL)
_ARGUMENT = re.compile(r'[ \t]*(?:"((?:[^"]|"")*)(?:"|$)|((?:\\.|[^ \t])+))')
_QUOTED = re.compile(r"``([^`'\n]{1,200})''")
_CODE_POINTS = re.compile(r"u([0-9A-F]{4,6})((?:_[0-9A-F]{4,6})*)")


def plain(text: str, string: Callable[[str], str]) -> str:
    """A line without escapes. `string` gives the value of a troff string (`\\*(lq`) by its name. Holds no control character."""
    if "\\" in text:
        text = _ESCAPE.sub(lambda found: _value(found, string), text)
    return _QUOTED.sub(r"“\1”", text)


def _value(found: re.Match[str], string: Callable[[str], str]) -> str:
    group = found.lastgroup
    if group is None:
        return ""
    name = found[group]
    if group in ("two", "long", "named"):
        return character(name)
    if group == "code":
        return _printable(int(name))
    if group == "mark":  # what joins, divides or moves is not to be seen; any other character stands for itself
        return _MARKS.get(name, "" if name in '&)|^/,%:{}cdurpaz"?$\n' else name)
    return string(name)


def character(name: str) -> str:
    """The special character called `name` in `\\(xx` or `\\[xx]`; empty for a name that is not known."""
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if points := _CODE_POINTS.fullmatch(name):
        return unicodedata.normalize("NFC", "".join(_printable(int(point, 16)) for point in (points[1] + points[2]).split("_")))
    if name.startswith("char") and name[4:].isascii() and name[4:].isdigit() and len(name) <= 11:
        return _printable(int(name[4:]))
    if len(name) == 2 and name[0] in _ACCENTS and name[1].isalpha():
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    return ""


def _printable(point: int) -> str:
    letter = chr(point) if point < 0x110000 else ""
    return letter if letter and not unicodedata.category(letter).startswith("C") else ""


def without_comment(line: str) -> str:
    r"""The line up to `\"` or `\#`."""
    return _COMMENT.sub(r"\1", line) if '\\"' in line or "\\#" in line else line


def arguments(text: str) -> list[str]:
    """Arguments of a request, quotes taken off; their escapes stand."""
    return [found[2] if found[2] is not None else found[1].replace('""', '"') for found in _ARGUMENT.finditer(text)]
