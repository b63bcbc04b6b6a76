"""`python -m iberlm` is the `iberlm` command."""

from iberlm.cli.main import main

if __name__ == "__main__":
    main()
