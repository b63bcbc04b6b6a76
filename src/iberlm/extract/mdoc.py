"""Words of mdoc(7), the macros of BSD manual pages, whose lines call one macro after another: `.Op Fl a Ar file ,`."""

_PAIRS = {"Op": "[]", "Bq": "[]", "Brq": "{}", "Pq": "()", "Aq": "<>", "Dq": "“”", "Qq": '""', "Sq": "‘’", "Ql": "‘’"}
_WORDS = frozenset("Ar Cm Dv Em Er Ev Fa Fl Fn Ic Li Lk Mt Nd Nm No Ns Pa Ql Sx Sy Tn Va Vt Xr".split())
INLINE = _WORDS | frozenset(_PAIRS)
"""Macros that make words in a paragraph."""
_CLOSING = frozenset(".,;:?!)]")
_OPENING = frozenset("([")


def inline(name: str, values: list[str]) -> str:
    """The words of a line that begins with the macro `name`; `values` are its arguments without escapes."""
    words = _Words()
    line = [name, *values]
    position = 0
    while position < len(line):
        word = line[position]
        position += 1
        if word == "Xr" and position < len(line):
            section = f"({line[position + 1]})" if line[position + 1 : position + 2] and line[position + 1][:1].isdigit() else ""
            words.add(line[position] + section)
            position += 2 if section else 1
        elif word == "Lk" and line[position + 1 : position + 2] and line[position + 1] not in _CLOSING:
            position += 1  # a link with a text: the text is what a reader sees
        elif word == "Fn" and position < len(line):
            words.add(f"{line[position]}()")
            position += 1
        else:
            words.take(word)
    return words.text()


class _Words:
    """Gathers words, with the spaces between them that mdoc would set."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._closers: list[str] = []
        self._glued = True

    def take(self, word: str) -> None:
        """A macro's name or a word."""
        if word in _PAIRS:
            self.add(_PAIRS[word][0])
            self._glued = True
            self._closers.append(_PAIRS[word][1])
        elif word == "Ns":
            self._glued = True
        elif word == "Fl":
            self.add("-")
            self._glued = True
        elif word not in INLINE:
            self.add(word)

    def add(self, word: str) -> None:
        """A word; punctuation comes without a space, and at the end of a line after what is still open."""
        if word in _CLOSING:
            self._glued = True
        self._parts.append(word if self._glued else f" {word}")
        self._glued = word in _OPENING

    def text(self) -> str:
        """All words, what is open closed before the last punctuation."""
        end = len(self._parts)
        while end and self._parts[end - 1] in _CLOSING:
            end -= 1
        return "".join((*self._parts[:end], *reversed(self._closers), *self._parts[end:]))
