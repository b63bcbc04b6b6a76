"""Values of each kind of personal data, made by the rules of their issuers and written in every way people write them.

Check letters and digits are computed here or by python-stdnum, never by what is tested. With the words that people write before them.
"""

import random
import string
from collections.abc import Callable, Iterator

from stdnum import iban as stdnum_iban
from stdnum import luhn
from stdnum.es import ccc as stdnum_ccc
from stdnum.es import referenciacatastral as stdnum_cadastre

CHECK_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
NBSP, THIN, HYPHEN = "\u00a0", "\u202f", "\u2011"
FULL_WIDTH = str.maketrans(string.digits, "０１２３４５６７８９")


Value = tuple[str, bool] | tuple[str, bool, str, str]
"""As written, whether it is clear without a word that tells what it is, and what stands right before and after it."""


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def other_digit(rng: random.Random, text: str, last: int | None = None) -> str:
    """The text with one of its digits changed."""
    places = [index for index, character in enumerate(text[:last]) if character in string.digits]
    place = rng.choice(places)
    return text[:place] + rng.choice([digit for digit in string.digits if digit != text[place]]) + text[place + 1 :]


def groups(text: str, sizes: tuple[int, ...], separator: str) -> str:
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return separator.join(text[end - size : end] for end, size in zip(ends, sizes, strict=True))


def dni(rng: random.Random) -> Iterator[Value]:
    number = str(rng.randrange(10_000_000, 80_000_000))
    letter = CHECK_LETTERS[int(number) % 23]
    dotted = groups(number, (2, 3, 3), ".")
    yield from (
        (f"{number}{letter}", True),
        (f"{number}-{letter}", True),
        (f"{number} {letter}", True),
        (f"{dotted}-{letter}", True),
        (f"{dotted}{letter}", True),
    )
    yield from ((f"{number}{letter.lower()}", False), (f"{dotted} {letter}", False), (f"{groups(number, (2, 3, 3), ' ')} {letter}", False))
    yield from (
        (f"{number}{NBSP}{letter}", True),
        (f"{number}{HYPHEN}{letter}", True),
        (f"{number.translate(FULL_WIDTH)}{letter}", True),
        (f"ES{number}{letter}", True),
    )
    short = number[:7]
    yield from ((f"{short}{CHECK_LETTERS[int(short) % 23]}", False), (f"{groups(short, (1, 3, 3), '.')}-{CHECK_LETTERS[int(short) % 23]}", True))


def nie(rng: random.Random) -> Iterator[Value]:
    first, number = rng.choice("XYZ"), digits(rng, 6) + "7"
    letter = CHECK_LETTERS[int(str("XYZ".index(first)) + number) % 23]
    dotted = groups(number, (1, 3, 3), ".")
    yield from (
        (f"{first}{number}{letter}", True),
        (f"{first}-{number}-{letter}", True),
        (f"{first}{number}-{letter}", True),
        (f"{first}-{dotted}-{letter}", True),
    )
    yield from ((f"{first.lower()}{number}{letter.lower()}", False), (f"{first} {number} {letter}", False), (f"{first}{HYPHEN}{number}{HYPHEN}{letter}", True))


def cif(rng: random.Random) -> Iterator[Value]:
    first, number = rng.choice("ABFGJUV"), digits(rng, 6) + "3"
    check = luhn.calc_check_digit(number)
    yield from ((f"{first}{number}{check}", False), (f"{first}-{number}{check}", False), (f"{first}{groups(number + check, (2, 3, 3), '.')}", False))
    yield from ((f"{first.lower()}{number}{check}", False), (f"ES{first}{number}{check}", True), (f"{first} {number}{check}", False))
    letter = "JABCDEFGHI"[int(luhn.calc_check_digit(number))]
    public = rng.choice("PQS")
    yield from ((f"{public}{number}{letter}", False), (f"{public}-{number}-{letter}", False))


def nuss(rng: random.Random) -> Iterator[Value]:
    province, sequence = f"{rng.randrange(1, 53):02d}", f"{rng.randrange(1_000_000, 90_000_000):08d}"
    base = int(province) * (10**7 if int(sequence) < 10**7 else 10**8) + int(sequence)
    check = f"{base % 97:02d}"
    for separator in ("/", " ", "-", NBSP):
        yield separator.join((province, sequence, check)), True
    yield f"{province}{sequence}{check}", False


def _ccc_number(rng: random.Random) -> str:
    bank = rng.choice(("2100", "0182", "0049", "2095", "3035", "2080", "1465")) + digits(rng, 4)
    account = digits(rng, 10)
    return stdnum_ccc.calc_check_digits(bank + "00" + account).join((bank, account))


def ccc(rng: random.Random) -> Iterator[Value]:
    number = _ccc_number(rng)
    yield from ((groups(number, (4, 4, 2, 10), " "), True), (groups(number, (4, 4, 2, 10), "-"), True), (groups(number, (4, 4, 2, 10), NBSP), True))
    yield from ((number, False), (groups(number, (4,) * 5, " "), False), (groups(number, (4, 4, 2, 10), "/"), True))


def iban(rng: random.Random) -> Iterator[Value]:
    foreign = {
        "PT": "0035" + digits(rng, 4),
        "DE": digits(rng, 18),
        "FR": digits(rng, 23),
        "AD": digits(rng, 20),
        "NL": "INGB" + digits(rng, 10),
        "GB": "NWBK" + digits(rng, 14),
    }
    spanish = "ES" + stdnum_iban.calc_check_digits("ES00" + (account := _ccc_number(rng))) + account
    for separator in (" ", "", "-", NBSP, "."):
        yield separator.join(spanish[place : place + 4] for place in range(0, 24, 4)), True
    yield from ((spanish.lower(), True), (groups(spanish, (4, 4, 4, 2, 10), " "), True), (groups(spanish, (4, 20), " "), True))
    yield f"{groups(spanish[:12], (4, 4, 4), ' ')}\n{groups(spanish[12:], (4, 4, 4), ' ')}", True
    country = rng.choice(("DE", "NL", "GB"))
    other = country + stdnum_iban.calc_check_digits(country + "00" + foreign[country]) + foreign[country]
    yield from ((other, True), (" ".join(other[place : place + 4] for place in range(0, len(other), 4)), True))


def card(rng: random.Random) -> Iterator[Value]:
    number = rng.choice(("4", "51", "53", "55", "2223", "6011"))
    number += digits(rng, 15 - len(number))
    number += luhn.calc_check_digit(number)
    american = rng.choice(("34", "37")) + digits(rng, 12)
    american += luhn.calc_check_digit(american)
    for separator in (" ", "-", "", NBSP):
        yield groups(number, (4, 4, 4, 4), separator), True
    yield from ((american, True), (groups(american, (4, 6, 5), " "), True))


def phone(rng: random.Random) -> Iterator[Value]:
    mobile, landline = (
        rng.choice(("60", "61", "62", "64", "65", "66", "69")) + digits(rng, 7),
        rng.choice(("913", "932", "933", "944", "945", "963", "981")) + digits(rng, 6),
    )
    yield from ((groups(mobile, (3, 2, 2, 2), " "), True), (groups(mobile, (3, 3, 3), " "), True), (groups(landline, (2, 3, 2, 2), " "), True))
    yield from (
        (groups(mobile, (3, 2, 2, 2), "-"), True),
        (groups(mobile, (3, 3, 3), "-"), True),
        (groups(landline, (2, 3, 2, 2), "."), False),
        (groups(mobile, (3, 3, 3), NBSP), True),
    )
    yield from (
        (mobile, False),
        (landline, False),
        (groups(mobile, (3, 3, 3), "."), False),
        (f"({landline[:2]}) {landline[2:]}", True),
        (f"{landline[:2]}-{landline[2:]}", False),
    )
    yield from (
        (f"+34{mobile}", True),
        (f"+34 {mobile}", True),
        (f"+34 {groups(mobile, (3, 3, 3), ' ')}", True),
        (f"(+34) {groups(mobile, (3, 2, 2, 2), ' ')}", True),
    )
    yield from (
        (f"0034{mobile}", True),
        (f"0034 {groups(landline, (2, 3, 2, 2), ' ')}", True),
        (f"+34-{groups(mobile, (3, 3, 3), '-')}", True),
        (mobile.translate(FULL_WIDTH), False),
    )
    yield from (
        (f"+33 6 1{digits(rng, 1)} {groups(digits(rng, 6), (2, 2, 2), ' ')}", True),
        (f"+351 91{digits(rng, 7)}", True),
        (f"+44 20 7946 {digits(rng, 4)}", True),
        (f"+1 (212) 736-{digits(rng, 4)}", True),
    )


def email(rng: random.Random) -> Iterator[Value]:
    name, domain = (
        rng.choice(("ane", "joan.vila", "uxia_90", "m.perez+web", "Info", "jose-luis", "nuria2")),
        rng.choice(("gmail.com", "udg.cat", "ehu.eus", "usc.gal", "correu.gva.es", "mail.empresa.com")),
    )
    yield from (
        (f"{name}@{domain}", True),
        (f"{name}@{domain}".upper(), True),
        (f"{name}@{domain}", True, "<", ">"),
        (f"{name}@{domain}", True, "mailto:", "?subject=ola"),
    )
    yield from ((f"iñaki@{domain}", True), (f"{name}%40{domain}", True))


def ip(rng: random.Random) -> Iterator[Value]:
    address = f"{rng.choice((80, 84, 88, 90, 95, 193, 212))}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"
    yield from ((address, True), (address, True, "http://", "/"), (address, True, "", ":8080"), (address, True, "[", "]"))
    groups6 = [f"{rng.randrange(1, 0xFFFF):x}" for _ in range(7)]
    yield from ((f"2a0c:{':'.join(groups6)}", True), (f"2a0c:{groups6[0]}::{groups6[1]}", True), (f"2A02:{groups6[2].upper()}::1", True, "[", "]"))


def credentials(rng: random.Random) -> Iterator[Value]:
    user, password = rng.choice(("ane", "deploy", "jvila", "backup")), rng.choice(("Zx81!kq", "h4r-t0z", "7yKp_w2", "aigua.77"))
    for scheme, host in (
        ("https", "git.empresa.com"),
        ("ftp", "ftp.udl.cat"),
        ("postgresql", "10.0.0.7:5432"),
        ("mongodb+srv", "db.mongo.net"),
        ("smtp", "mail.usc.gal"),
    ):
        yield f"{user}:{password}", True, f"{scheme}://", f"@{host}/x"


def passport(rng: random.Random) -> Iterator[Value]:
    letters, number = "".join(rng.choice("ABCDEFGHPQ") for _ in range(3)), digits(rng, 6)
    yield from (
        (f"{letters}{number}", False),
        (f"{letters} {number}", False),
        (f"{letters}-{number}", False),
        (f"{letters[:2]}{number}", False),
        (f"{letters}{number}".lower(), False),
    )


def health_card(rng: random.Random) -> Iterator[Value]:
    letters = "".join(rng.choice("BCDFGLMNPRST") for _ in range(4))
    birth = f"{rng.randrange(40, 99)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    yield from (
        (f"BBBBBBBB{letters[:2]}{digits(rng, 6)}", True),
        (f"{letters}{rng.choice('01')}{birth}{digits(rng, 3)}", False),
        (f"{letters} 1 {birth} {digits(rng, 2)} 4", False),
    )
    yield from ((f"AN{digits(rng, 10)}", False), (f"{birth}{letters}1{digits(rng, 3)}", False))


def plate(rng: random.Random) -> Iterator[Value]:
    number, letters = digits(rng, 4), "".join(rng.choice("BCDFGHJKLMNPRSTVWXYZ") for _ in range(3))
    yield from ((f"{number} {letters}", False), (f"{number}{letters}", False), (f"{number}-{letters}", False), (f"{number}{letters}".lower(), False))
    yield from (
        (f"{rng.choice(('M', 'B', 'BI', 'SS', 'PO', 'V'))}-{number}-{letters[:2]}", False),
        (f"{rng.choice(('M', 'GI', 'C'))} {number} {letters[:2]}", False),
    )


def cadastre(rng: random.Random) -> Iterator[Value]:
    urban = f"{digits(rng, 7)}{rng.choice(('VH', 'UF', 'DF', 'WN'))}{digits(rng, 4)}{rng.choice('ABCDEFGHS')}{digits(rng, 4)}"
    urban += stdnum_cadastre.calc_check_digits(urban + "AA")
    rural = f"{digits(rng, 5)}{rng.choice('AB')}{digits(rng, 12)}"
    rural += stdnum_cadastre.calc_check_digits(rural + "AA")
    yield from (
        (urban, True),
        (groups(urban, (7, 7, 4, 2), " "), True),
        (urban.lower(), True),
        (rural, True),
        (groups(rural, (2, 3, 1, 3, 5, 4, 2), " "), True),
    )


def gps(rng: random.Random) -> Iterator[Value]:
    latitude, longitude = f"{rng.uniform(36, 43.7):.5f}", f"{rng.uniform(-9, 4.3):.5f}"
    longitude = longitude if abs(float(longitude)) > 1 else "2.16864"
    east = "E" if float(longitude) > 0 else "W"
    yield from (
        (f"{latitude}, {longitude}", False),
        (f"{latitude},{longitude}", False),
        (f"{latitude} {longitude}", False),
        (f"{latitude}° N, {longitude.lstrip('-')}° {east}", True),
    )
    minutes = [rng.randrange(60) for _ in range(4)]
    yield f"{latitude[:2]}°{minutes[0]:02d}'{minutes[1]:02d}\"N {3 + minutes[0] % 5}°{minutes[2]:02d}'{minutes[3]:02d}\"{east}", True
    yield f"{latitude[:2]}º {minutes[0]:02d}′ {minutes[1]:02d}.4″ N, {3 + minutes[0] % 5}º {minutes[2]:02d}′ {minutes[3]:02d}.1″ O", True


VALUES: dict[str, Callable[[random.Random], Iterator[Value]]] = {
    "email": email,
    "credentials": credentials,
    "ip": ip,
    "phone": phone,
    "dni": dni,
    "nie": nie,
    "cif": cif,
    "nuss": nuss,
    "iban": iban,
    "ccc": ccc,
    "card": card,
    "passport": passport,
    "health_card": health_card,
    "plate": plate,
    "cadastre": cadastre,
    "gps": gps,
}


# by kind, what people write before it: Spanish, Catalan, Valencian, Basque, Galician; | stands between alternatives
LABELS: dict[str, tuple[str, str, str, str, str]] = {
    "email": ("Correo electrónico|E-mail", "Correu electrònic|A/e", "Correu", "Posta elektronikoa|Helbide elektronikoa", "Correo|Enderezo electrónico"),
    "credentials": ("Repositorio", "Repositori", "Dipòsit", "Biltegia", "Repositorio"),
    "ip": ("Dirección IP|Desde el equipo", "Adreça IP|Connexió des de", "Adreça del servidor", "IP helbidea|Zerbitzaria", "Enderezo IP|Equipo"),
    "phone": (
        "Teléfono|Tfno.|Llámanos al|Móvil|Fax|WhatsApp|Teléfonos de contacto",
        "Telèfon|Truqueu al|Mòbil|Tel. i fax|Telèfon de contacte",
        "Tel.|Telefoneu al|Crideu al|Mòbil",
        "Telefono zenbakia|Deitu|Mugikorra|Faxa|Telefonoa",
        "Teléfono móbil|Chámanos ao|Telf.|Teléfono de contacto",
    ),
    "dni": (
        "DNI|Documento nacional de identidad|D.N.I.|NIF",
        "DNI|Document nacional d'identitat|NIF",
        "N.I.F.|DNI",
        "NAN|Nortasun agiria|NANaren zenbakia|IFZ",
        "DNI|Documento nacional de identidade|NIF",
    ),
    "nie": (
        "NIE|Número de identidad de extranjero",
        "NIE|Número d'identitat d'estranger",
        "N.I.E.|Número d'identificació d'estrangers",
        "AIZ|Atzerritarren identifikazio zenbakia|NIE",
        "NIE|Número de identidade de estranxeiro",
    ),
    "cif": (
        "CIF|Transportes Unidos, S.L.|NIF de la sociedad|Código de identificación fiscal",
        "NIF de l'empresa|CIF|Codi d'identificació fiscal",
        "C.I.F.|Fusters d'Alcoi, SLU",
        "IFK|Enpresaren IFZ",
        "CIF|Identificación fiscal|Conservas do Norte, S.A.",
    ),
    "nuss": (
        "Número de la Seguridad Social|N.º de afiliación|NAF|Núm. S.S.",
        "Número d'afiliació a la Seguretat Social|NAF",
        "NUSS|Seguretat Social",
        "Gizarte Segurantzako zenbakia|GSZ|Afiliazio-zenbakia",
        "Número da Seguridade Social|Nº de afiliación",
    ),
    "iban": ("IBAN|Ingreso en", "Compte corrent|IBAN", "Número de compte", "Kontu korrontea|Banku-kontua", "Conta bancaria"),
    "ccc": (
        "Cuenta corriente|Ingreso en la cuenta|Domiciliación en cuenta",
        "Compte corrent|Domiciliació bancària",
        "Número de compte|CCC",
        "Kontu korrontea|Banku-kontua",
        "Conta bancaria|Transferencia á conta",
    ),
    "card": (
        "Tarjeta de crédito|Visa|Pago con tarjeta",
        "Targeta de crèdit|Targeta de dèbit",
        "Targeta Visa",
        "Kreditu-txartela|Txartela",
        "Tarxeta de crédito|Mastercard",
    ),
    "passport": ("Pasaporte|Número de pasaporte", "Passaport|Núm. de passaport", "Passaport núm.", "Pasaporte zenbakia|Pasaportea", "Pasaporte n.º"),
    "health_card": (
        "Tarjeta sanitaria|CIP|Número de tarjeta sanitaria",
        "Targeta sanitària (CIP)|TSI",
        "Targeta sanitària|CIP",
        "Osasun-txartela|Osasun txartel indibiduala|TIS",
        "Tarxeta sanitaria|CIP",
    ),
    "plate": (
        "Matrícula|Vehículo matrícula|Coche|Placa de matrícula",
        "Matrícula del cotxe|Vehicle amb matrícula|Turisme",
        "Matrícula|Furgoneta",
        "Matrikula|Ibilgailuaren matrikula|Autoa",
        "Vehículo con matrícula|Matrícula|Automóbil",
    ),
    "cadastre": (
        "Referencia catastral|Finca registral y catastral",
        "Referència cadastral",
        "Ref. cadastral|Cadastre",
        "Katastro-erreferentzia|Katastroko erreferentzia",
        "Referencia catastral|Catastro",
    ),
    "gps": (
        "Coordenadas GPS|Latitud y longitud|Posición|Ubicación",
        "Coordenades|Situació (lat, lon)|Localització",
        "Ubicació|Coordenades",
        "Koordenatuak|Kokapena|GPS puntua",
        "Coordenadas|Localización|Latitude e lonxitude",
    ),
}
