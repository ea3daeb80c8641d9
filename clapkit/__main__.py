"""`python -m clapkit`: the command line, for launchers that start modules (torchrun, accelerate launch)."""

from __future__ import annotations

from clapkit.cli.main import main

if __name__ == "__main__":
    main()
