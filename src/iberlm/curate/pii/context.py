"""Words that tell what a number is, in Spanish, Catalan and Valencian, Basque, Galician and English, and words that tell it is something else.

Compared with text in lower case without accents, from the start of a word on (Basque and inflected forms go on: telefono,
telefonoa, telefonoaren). Dots inside abbreviations do not count: D.N.I. is dni.
"""

import re
from functools import lru_cache

from iberlm.curate.pii.scan import CONTEXT, PHONE_SIGN

AFTER = 24
"""Characters after a number that are searched: "612345678 (movil)"."""

_LABELS = {
    "phone": (
        "tel|tels|telf|tlf|tfno|tfnos|tfn|tlfno|telefono*|telefon*|movil*|mobil|mobils|mobile|mugikor*|celular*|cel|mob|sakelek*|reserva*"
        "|reserves|erreserba*|informacion|informacio|informazio*|fax*|whatsapp*|wasap*|wa.me|phone*|llam*|truc*|truqu*|crida*|cride*|deitu*"
        "|deitzeko|deia*|chama*|chame*|call|marque|marcar|centralita|centraleta|linea directa|extension|contacto*|contacte*|contacta"
        f"|contactar|contact|kontaktu*|telegram|bizum|sms|{PHONE_SIGN}"
    ),
    "identity": (
        "dni*|nif*|nie*|identidad|identidade|identitat|identificacion|identificacio|identifikazio*|identitate|nan|nana|nanaren|nan-*"
        "|nortasun*|ifz|aiz|cedula|carnet|documento|document|ena|residencia|residencies|bizileku*|identity card"
    ),
    "company": (
        "cif*|nif*|ifk*|ifz|vat|sl|sa|slu|slp|slne|sociedad*|societat*|sozietate*|sociedade*|empresa*|enpresa*|razon social|coop"
        "|identificacion fiscal|identificacio fiscal|identifikazio fiskal*|fiscal|fiscals|fiscales|fiscais|fiskal*|zerga*|cooperativa*"
        "|kooperatiba*"
    ),
    "social_security": (
        "nuss|naf|n.afiliacion|afiliacion|afiliacio|afiliazio*|seguridad social|seguretat social|gizarte segurantza*|gizarte-segurantza*"
        "|seguridade social|social security|seg. social|seg. soc|ss|nss|gsz|gs"
    ),
    "account": (
        "cuenta*|compte*|kontu*|conta|contas|account*|ccc|iban|banco|banc|banku*|bank|bancari*|banketxe*|domicilia*|abono|abonament|caixa"
        "|caja|kutxa|transferencia*|transferentzia*|ingreso*|ingres"
    ),
    "card": ("tarjeta*|targeta*|targetes|tarxeta*|txartel*|card|cards|visa|mastercard|master card|amex|american express|maestro|credito*|credit|debito*|debit"),
    "passport": "pasaport*|passaport*|passport*",
    "health": (
        "tarjeta sanitaria*|targeta sanitaria*|tarxeta sanitaria*|txartel sanitario*|osasun txartel*|osasun-txartel*|health card*"
        "|health insurance|cip|sns|cip-sns|cip-aut|tsi|tis|cipa|nuhsa|catsalut|codigo de identificacion personal"
        "|codi d'identificacio personal"
    ),
    "health_digits": (
        "tarjeta sanitaria*|targeta sanitaria*|tarxeta sanitaria*|txartel sanitario*|osasun txartel*|osasun-txartel*|health card*"
        "|numero sip|num. sip|tarjeta sip|targeta sip|codigo sip|codi sip|numero tis|tarjeta tis|tis zenbaki*|cipa"
        "|numero de la tarjeta sanitaria"
    ),
    "registration": "matricula*|matricules|matrikula*|placa*|plaques|license plate*|licence plate*|number plate*|plate|registration",
    "plate": (
        "matricula*|matricules|matrikula*|placa*|plaques|license plate*|licence plate*|number plate*|plate|registration|vehiculo*|vehicle*"
        "|ibilgailu*|coche*|cotxe*|kotxe*|automovil*|automobil*|furgoneta*|motocicleta*|turismo|turisme|taxi|auto|autoa*|autobus*|moto"
        "|ciclomotor*|remolque|remolc|atoi*|camion*|camio"
    ),
    "cadastre": "catastr*|cadastr*|katastr*|ref. cat|rc",
    "position": (
        "gps*|coord|koord|localitzador*|lokalizatzaile*|localizador*|punto*|coordenad*|coordenades|koordenatu*|coordinate*|latitud*"
        "|latitude*|lat|lon|lng|long|longitud*|ubicac*|ubicacio|kokapen*|kokaleku*|localizac*|localitzac*|location|position|posicion"
        "|posicio|maps|geo|geouri|ll|sll|center|centre|centro|utm|mapa*"
    ),
    "address": (
        "ip|ips|ipv4|ipv6|servidor*|zerbitzari*|server*|host*|router*|encaminador*|dns|ping|traceroute|tracert|direccion*|adreca*"
        "|adreces|helbide*|enderezo*|address*|gateway|pasarela|proxy|ssh|http|https|ftp|nameserver|netmask|inet|addr|peer|remote|client"
        "|cliente|from"
    ),
}
"""By what they tell; a word that ends in * may go on."""

_OTHER = (
    "isbn*|issn|ean|doi|pmid|pedido*|comanda*|comandes|eskaera*|eskari*|encargo*|encomenda*|order*|factura*|faktura*|invoice*|serie"
    "|serial|ref|refª|referencia*|erreferentzia*|reference|expediente*|expedient*|espediente*|version*|versio|versions|bertsio*"
    "|release*|commit*|build|pid|bug*|issue*|boe|dogc|bopv|ticket*|tiquet*|codigo*|codi|codis|kode*|code*|sku|isrc|articulo*|article*"
    "|artikulu*|artigo*|seccion*|seccio|secao*|seccao*|sezione|sekzio*|section*|capitulo*|capitol*|kapitulu*|apartado*|apartat*|atal*|paragrafo"
    "|ley|llei|lege*|lei|decreto*|decret*|dekretu*|producto*|producte*|produktu*|product*|modelo*|model*|eredu*|oid|revision*|revisio"
    "|timestamp*|hash*|id|uuid|guid|md5|sha*|crc*|seguimiento|seguiment|tracking|lote|lot|kernel|rfc|bytes|tamano|mida|tamaina*|size"
    "|precio|preu|prezioa|prezo"
)

_AMOUNT = re.compile(
    r"[ ]?(?:[€$£%]|(?:eur|euros?|usd|ptas?|pesetas|pessetes|bytes?|octets|[kmgtp]i?b|[kmgt]?bits?|bps|km2?|m2|ha|hab|habitant|habitantes|personas|persones"
    r"|biztanle|pertsona|persoas|milion|millon|milioi|tonelad|tones|kg|hz|[kmg]hz|votos|vots|boto|segundos|segons|segundo|years|anos|anys|dolar|dollar|lineas|linies)(?![a-z]))"
)
_ACCENTS = str.maketrans("àáâãäåçèéêëìíîïñòóôõöùúûüý", "aaaaaaceeeeiiiinooooouuuuy")
_BEFORE = r"(?<![^\W_])"
_TOLD_AFTER = ("phone", "account", "card", "identity", "passport", "plate", "registration", "position", "social_security")
_BETWEEN = r"(?:[\s:.,;=>\"'()\[\]{}|#*°/_-]|\b(?:n|no|num|number|numero|numeroa|zk|zenbakia|zbk|de|del|da|do|d|es|is|el|la|l|val)\b)*"


def plain(text: str) -> str:
    """Lower case, no accents, no dots inside abbreviations (so shorter than the text)."""
    return re.sub(r"(?<=\b\w)\.(?=\w\b)", "", text.lower().translate(_ACCENTS))


def _alternatives(words: str) -> str:
    patterns = [re.escape(word.rstrip("*")) + (r"[^\W_]*" if word.endswith("*") else "") for word in words.split("|")]
    return "|".join(sorted(patterns, key=len, reverse=True))


@lru_cache(maxsize=32)
def _label(kind: str) -> re.Pattern[str]:
    return re.compile(rf"{_BEFORE}(?:{_alternatives(_LABELS[kind])})(?![a-z])")


@lru_cache(maxsize=32)
def _label_right_before(kind: str) -> re.Pattern[str]:
    return re.compile(rf"{_BEFORE}(?:{_alternatives(_LABELS[kind])}){_BETWEEN}\Z")


_OTHER_BEFORE = re.compile(rf"{_BEFORE}(?:{_alternatives(_OTHER)}){_BETWEEN}\Z")


def told(kind: str, window: str, start: int, end: int, *, within: int = CONTEXT) -> bool:
    """Whether a word that tells `kind` stands in the `within` characters before window[start:end] or, in brackets or not, right after it."""
    before = plain(window[max(0, start - within - 1) : start])
    # a word cut by the window's edge is no word; the character before it is kept for that
    if _label(kind).search(before, min(len(before), 1) if start > within else 0):
        return True
    after = re.match(r"[ ]?[(\[-]?[ ]?([^\W\d_.]+)", plain(window[end : end + AFTER]))
    return bool(after and kind in _TOLD_AFTER and _label(kind).fullmatch(after[1]))


def told_right_before(kind: str, window: str, start: int) -> bool:
    """Whether a word that tells `kind` stands before window[start] with nothing but "number", "is" and punctuation between."""
    return bool(_label_right_before(kind).search(plain(window[max(0, start - 48) : start])))


def told_otherwise(window: str, start: int) -> bool:
    """Whether the word right before window[start] tells a number of another sort: an order, a version, an article, an ISBN."""
    return bool(_OTHER_BEFORE.search(plain(window[max(0, start - 40) : start])))


def amount_follows(window: str, end: int) -> bool:
    """Whether a unit, a currency or what is counted stands right after window[:end]."""
    return bool(_AMOUNT.match(plain(window[end : end + AFTER])))
