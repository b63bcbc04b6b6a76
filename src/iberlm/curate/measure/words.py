"""Word lists: stop words by language, and phrases that betray a page's furniture or filler."""

FINEWEB2_STOP_WORDS: dict[str, tuple[str, ...]] = {
    "es": tuple("de la en el y a que del los se por un con una las su".split()),
    "ca": tuple("de el la a i d l' en d' que va els per un les una amb es".split()),
    "eu": tuple("eta da ziren zen bat zuen zeuden izan".split()),
    "gl": tuple("de a e o en que do da un no os na é unha como".split()),
}
"""FineWeb2's published lists (Penedo et al. 2025, arXiv 2506.20920; configs/spa_Latn.yml, cat_Latn.yml, eus_Latn.yml, glg_Latn.yml).
Drawn from Wikipedia by frequency: five of the eight Basque ones are past or auxiliary verbs. Catalan 'd' is what spaCy leaves of 'del'."""

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "es": tuple("de la en el y a que del los se por un con una las su no es para como más pero lo al o este esta sin sobre si".split()),
    "ca": tuple("de la el i a que els les un una en per amb es no va del als al l' d' s' n' o és ha com més però aquest aquesta si".split()),
    "eu": tuple("eta da ez du zen bat dira izan ere egin den edo hau duen baina dute dago zuen dela bere dituen dezake behar gabe hori horrek".split()),
    "gl": tuple("de a e o en que do da un no os na é unha como se dos por con para non máis ao á pero das ou este esta sen".split()),
}
"""Function words of running text of any kind: FineWeb2's, less those that only an encyclopedia has, with the commonest conjunctions,
prepositions, articles, negations and (Basque) auxiliaries of the present. At least two different ones are in all but 0.1% of Spanish,
0.6% of Catalan, 1.3% of Basque and 0.3% of Galician documents of 50 words and more of software documentation; of FineWeb2's in all but
0.1%, 0.6%, 15.1% and 0.4%: its Basque list drops every seventh good document there."""
STOP_WORDS["ca-valencia"] = (*STOP_WORDS["ca"], *"este esta açò això eixe eixa".split())  # the demonstratives are what differs
FINEWEB2_STOP_WORDS["ca-valencia"] = FINEWEB2_STOP_WORDS["ca"]

JAVASCRIPT_PHRASES = ("javascript",)
"""C4 (Raffel et al. 2020, section 2.2) drops lines with this word."""

POLICY_PHRASES = (
    # C4's reference implementation
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    # Spanish
    *("términos de uso", "condiciones de uso", "política de privacidad", "política de cookies", "aviso legal", "uso de cookies"),
    *("utiliza cookies", "utilizamos cookies", "usamos cookies", "usa cookies", "aceptar cookies", "todos los derechos reservados"),
    # Catalan and Valencian
    *("termes d'ús", "condicions d'ús", "política de privacitat", "política de privadesa", "política de galetes", "política de cookies", "avís legal"),
    *("ús de galetes", "utilitza galetes", "utilitzem galetes", "fa servir galetes", "utilitza cookies", "utilitzem cookies", "ús de cookies"),
    *("accepta les galetes", "acceptar les galetes", "tots els drets reservats"),
    # Basque, in which a hyphen parts words
    *("erabilera baldintzak", "pribatutasun politika", "cookie politika"),
    *("cookieen politika", "lege oharra", "cookieak erabiltzen ditu", "cookieak erabiltzen ditugu", "cookieak onartu", "eskubide guztiak erreserbatuta"),
    # Galician
    *("termos de uso", "condicións de uso", "política de privacidade", "política de cookies", "aviso legal", "uso de cookies", "emprega cookies"),
    *("empregamos cookies", "utiliza cookies", "utilizamos cookies", "aceptar cookies", "todos os dereitos reservados"),
)
"""Phrases of notices about cookies, privacy and terms of use. English: the list of C4's reference implementation; ours beside it."""

LOREM_IPSUM_PHRASES = ("lorem ipsum",)
"""Filler text; C4 drops documents that have it."""
