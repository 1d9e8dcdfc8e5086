"""`python -m ser_jax COMMAND`, which is `ser-jax COMMAND`."""

import sys

from ser_jax.main import main

if __name__ == "__main__":
    sys.exit(main())
