"""The commented card that `iberlm cards new` writes. What nobody can know for the author is left blank, and reported."""

from datetime import date

_TEMPLATE = """\
# Data card of {name}. Fill in every blank, then run: iberlm cards validate {path}
schema_version: 1
name: {name}
title:                        # one line
description:                  # what the data is and where it comes from, at least 80 characters
version: 0.1.0                # raise it whenever the data changes
# citation:                   # how to cite it

# Every language with its share; the shares sum to 1. Valencian is ca-valencia ('val' is another language).
languages:
  - tag:                      # es, ca, ca-valencia, eu, gl, ...
    proportion:               # 0 to 1
    basis: documents          # tokens, bytes or documents
registers: []                 # administrative legal parliamentary journalistic literary academic educational conversational web technical mixed
modality: text                # text, code or structure
source_type:                  # public_dataset licensed_third_party private_third_party crawled user_data synthetic other
# upstream:                   # what it was made from
#   - {{name: , url: , revision: }}

licence:
  spdx:                       # an SPDX expression, e.g. CC-BY-4.0; an own licence is LicenseRef-NAME with its text in LICENSES/
  url:                        # where the licence can be read
  evidence:
    kind: url                 # url, file, email or contract
    ref:                      # the address or file that says so
    checked_on: {today}
  # attribution:              # the line that users of the data must show
  # share_alike: false

# Reservation of rights against text and data mining.
tdm:
  status:                     # no_reservation, honoured, licence_overrides or not_applicable
  # protocols: [robots.txt]   # robots.txt ai.txt tdmrep x-robots-tag terms registry
  # checked_on: {today}
# crawl: {{crawlers: [], user_agent: , behaviour: , from: , to: , domains_file: }}      # when source_type is crawled
# synthetic: {{generators: [{{model: , licence: , url: }}], method: }}                   # when source_type is synthetic

personal_data:
  present:                    # none, incidental or systematic
  special_categories: false   # health, religion, opinions, ... (GDPR art. 9)
  # legal_basis: legitimate_interest
  # basis_ref:                # where the balancing is written down
pii:
  status:                     # raw (not for pretraining), redacted, pseudonymised or not_needed
  # detectors: []

dates:
  collected_from:             # YYYY-MM-DD
  collected_to:

# Either the files, with paths relative to the folder that holds data_cards/ ...
files:
  - path:
    sha256:                   # sha256sum FILE
    bytes:
# ... or, instead of `files`, where the toolkit gets them:
# source: {{kind: huggingface, dataset: , revision: }}      # a commit of 40 digits
# source: {{kind: debian, packages: []}}
splits:
  - name: train
    files: []
    documents:

quality:
  known_issues: []            # at least one sentence: no data set is without
  # dedup:
  # filters:
  # human_reviewed: 0.0       # the share of documents that a person has read
permitted_uses: []            # pretrain sft preference eval redistribute
# prohibited_uses: []
maintainer:
  name:
  email:
takedown:
  contact:                    # where to ask for removal
  sla_days: 14                # days until an answer, 1 to 30
"""


def template(name: str, path: str, today: date) -> str:
    """Text of a new card."""
    return _TEMPLATE.format(name=name, path=path, today=today.isoformat())
