"""The steps of the stage `select`: decide, choose, settle, write; and the card of the corpus."""
