"""Short texts on which tokenizers that look alike on average differ: digits, the Catalan l·l and apostrophes, and program code.

Each word stands alone, without the space before it: whoever measures puts it there. Words of the lists about Catalan are correct in Catalan and
in Valencian alike, so that one number serves both. All texts are in NFC and were written for this module; the code belongs to no program.
"""

DIGITS = (
    *("7", "42", "365", "1992", "28013", "481516", "9340275", "20240117", "604118953", "1234567890", "34915550123", "840029371645"),
    *("3.400", "12.050", "1.234.567", "0,75", "3,1416", "99,90", "2.018,45", "-273,15"),
    *("2024-11-14", "23/04/1616", "01.09.1995", "7-10-1931", "19:30", "06:05:59", "1898-1939"),
    *("12,50€", "1.099€", "€48.60", "2.750.000,00€", "20%", "37,5°C"),
)
"""Numbers of one to twelve digits in order of length, then numbers as text has them: with separators, as dates, times, prices and measures."""

PUNT_VOLAT = (
    *("col·legi", "intel·ligència", "paral·lel", "il·lusió", "excel·lent", "pel·lícula", "novel·la", "al·lèrgia", "cèl·lula", "instal·lació"),
    *("síl·laba", "satèl·lit", "mil·lenni", "col·lecció", "il·lustració", "tranquil·litat", "vacil·lar", "al·lucinant", "metàl·lic", "mol·lusc"),
)
"""Words with the geminate l. Its dot, U+00B7, is punctuation to most tokenizers, which then cut the word in three: col, ·, legi."""

ELISION = (
    *("l'escola", "d'una", "s'ha", "n'hi", "m'agrada", "t'espera", "d'aquell", "l'any", "l'hora", "s'hi", "m'ho", "d'aigua"),
    *(
        "anar-hi",
        "donar-me'n",
        "digues-li-ho",
        "portar-los",
        "fer-ho",
        "anar-se'n",
        "mirar-s'ho",
        "dur-nos-el",
        "compra'n",
        "deixa'l",
        "parlant-ne",
        "veient-la",
    ),
)
"""Words after an elided article, preposition or pronoun, then verbs followed by weak pronouns."""

_PYTHON = '''\
from collections import Counter
from pathlib import Path


def most_common_words(folder: Path, limit: int = 10) -> list[tuple[str, int]]:
    """Words of all notes in a folder, the most frequent first."""
    seen: Counter[str] = Counter()
    for note in sorted(folder.glob("*.md")):
        if note.stat().st_size == 0:
            continue
        seen.update(word.lower() for word in note.read_text(encoding="utf-8").split())
    return seen.most_common(limit)
'''

_JAVASCRIPT = """\
const cart = new Map();

export async function addToCart(productId, quantity = 1) {
  const response = await fetch(`/api/products/${productId}`);
  if (!response.ok) {
    throw new Error(`product ${productId}: ${response.status}`);
  }
  const { price, name } = await response.json();
  const previous = cart.get(productId)?.quantity ?? 0;
  cart.set(productId, { name, price, quantity: previous + quantity });
  return [...cart.values()].reduce((sum, item) => sum + item.price * item.quantity, 0);
}
"""

_C = """\
#include <stddef.h>

/* Returns the index of the largest value, or -1 if there is none. */
ptrdiff_t argmax(const double *values, size_t count)
{
    ptrdiff_t best = -1;
    for (size_t i = 0; i < count; i++) {
        if (best < 0 || values[i] > values[best])
            best = (ptrdiff_t)i;
    }
    return best;
}
"""

_RUST = """\
#[derive(Debug, Clone, PartialEq)]
pub enum Weather {
    Rain { millimetres: f32 },
    Sun,
}

impl Weather {
    pub fn parse(line: &str) -> Result<Self, std::num::ParseFloatError> {
        match line.trim().strip_prefix("rain ") {
            Some(amount) => Ok(Self::Rain { millimetres: amount.parse()? }),
            None => Ok(Self::Sun),
        }
    }
}
"""

_SQL = """\
CREATE TABLE IF NOT EXISTS loans (id INTEGER PRIMARY KEY, book_id INTEGER NOT NULL, due DATE);

SELECT b.title, COUNT(l.id) AS times_lent, MAX(l.due) AS last_due
FROM books AS b
LEFT JOIN loans AS l ON l.book_id = b.id
WHERE b.language IN ('ca', 'eu', 'gl') AND l.due >= '2024-01-01'
GROUP BY b.title
HAVING COUNT(l.id) > 3
ORDER BY times_lent DESC, b.title
LIMIT 25;
"""

_HTML = """\
<!DOCTYPE html>
<html lang="gl">
<head>
  <meta charset="utf-8">
  <title>Horarios</title>
  <link rel="stylesheet" href="/static/style.css">
</head>
<body>
  <main id="timetable" class="two-columns">
    <h1>Horarios de <em>autobús</em></h1>
    <ul><li data-line="7"><a href="/lines/7">Porto &rarr; Praza</a></li></ul>
  </main>
</body>
</html>
"""

_BASH = """\
#!/usr/bin/env bash
set -euo pipefail

target="${1:?usage: backup.sh FOLDER}"
stamp=$(date +%Y-%m-%d)
for folder in photos letters; do
    if [[ -d "$HOME/$folder" ]]; then
        tar -czf "$target/$folder-$stamp.tar.gz" -C "$HOME" "$folder"
    else
        echo "no $folder here" >&2
    fi
done
find "$target" -name '*.tar.gz' -mtime +90 -delete
"""

CODE = (_PYTHON, _JAVASCRIPT, _C, _RUST, _SQL, _HTML, _BASH)
"""Snippets of seven languages; indentation and brackets are part of what they cost."""
