"""``python -m fastmux``: the command line, where the command `fastmux` is not on the path."""

from fastmux.cli.main import main

if __name__ == "__main__":
    main()
