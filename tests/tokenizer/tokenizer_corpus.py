"""Documents in five languages as the curate stage leaves them."""

from collections.abc import Mapping
from pathlib import Path

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.tokenizer.config import TokenizerConfig, TrainTokenizerConfig

TEXTS = {
    "es": """El río baja crecido desde las montañas y los vecinos miran el puente con cierta inquietud. ¿Aguantará otro invierno?
En 1987 el agua llegó hasta la plaza; desde entonces, cada otoño se limpian los desagües y se revisan los muros.
La panadera abre a las 6 y vende pan, rosquillas y unas empanadas que su abuela aprendió a hacer en Zamora.
—No hay prisa —dice—, el horno ya está caliente. Y corta la masa en trozos iguales, como quien reparte naipes.""",
    "ca": """El col·legi és al capdamunt del carrer, al costat de l'antiga estació. Els nens hi pugen a peu cada matí.
L'any 1992 s'hi va instal·lar una biblioteca amb 3.400 llibres i una sala il·luminada per a les novel·les.
A la tarda, l'àvia seu vora la finestra i explica com era la vall quan encara no hi havia cap pantà.
«Aleshores collíem les olives a mà», diu, i ensenya les mans com si encara en fossin plenes.""",
    "ca-valencia": """Hui fa un dia clar i la gent ix al carrer a passejar per la vora del riu. Els xiquets juguen a pilota.
La meua germana té una botiga de teles al mercat; obri a les 9 i tanca quan se'n va l'última clienta.
En la collita de la taronja fan falta braços, i enguany han vingut quadrilles de 12 persones de tota la comarca.
Este poble és menut, però té banda de música, trinquet i una paella que no s'assembla a cap altra.""",
    "eu": """Mendiaren oinean dagoen baserrian hiru anaia bizi dira, eta goizero ardiak larrera eramaten dituzte.
1936an eraikitako zubia oraindik zutik dago, nahiz eta ibaia askotan gainezka egin duen azken urteotan.
Amonak talo egiten irakatsi zidan: irina, ura eta gatz pixka bat; gero, su gainean bi aldeetatik erre.
Herriko plazan musika entzuten da larunbat gauetan, eta gazteek goizaldera arte egiten dute dantza.""",
    "gl": """A choiva cae miudiña sobre os tellados da aldea e ninguén ten présa por saír á rúa. O can dorme xunto á lareira.
En 2003 volveron as embarcacións ao porto despois de meses sen pescar, e a xente celebrouno na praia.
A miña avoa gardaba as castañas nunha cesta de vimbio e dicía que o outono sabe mellor amodo.
Hai quen di que o monte fala cando sopra o vento do norte; eu só oio as follas dos carballos.""",
}
"""Written for these tests."""


def documents(language: str) -> list[str]:
    """Twelve texts of a language: every run of one to three of its lines, so that words repeat and lines end inside."""
    lines = TEXTS[language].split("\n")
    return ["\n".join(lines[first : first + count]) for count in (1, 2, 3) for first in range(4)]


def write_curated(folder: Path, splits: Mapping[str, Mapping[str, list[str]]], row_group: int = 4) -> Manifest:
    """A curate stage's folder with the given texts by split and language."""

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for split, languages in splits.items():
            for tag, texts in languages.items():
                rows = [
                    {"id": f"{split}-{tag}-{index}", "text": text, "language": tag, "source": "test", "card": "tales", "licence": "CC0-1.0"}
                    for index, text in enumerate(texts)
                ]
                path = out / "documents" / f"{split}.{file_safe(tag)}.parquet"
                record.output(path, write_documents(path, batches_of(rows, max_rows=row_group)))
                record.counts.keep(tag, len(texts))
        record.cards["tales"] = "CC0-1.0"

    return run_stage("curate", 1, body, StageConfig(), [], folder)


def small(**settings: object) -> TrainTokenizerConfig:
    """Settings that fit the little text there is."""
    return TrainTokenizerConfig(tokenizer=TokenizerConfig(**({"vocabulary_size": 680} | settings)))
