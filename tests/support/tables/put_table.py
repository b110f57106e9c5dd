"""A process that puts rows into tables until it is killed, or a writer of a race.

python put_table.py KIND FOLDER MODE RUN KEYS
"""

import os
import sys
from pathlib import Path

from warehouses import catalog_of, put


def main() -> None:
    kind, folder, mode, run, keys = sys.argv[1:]
    os.environ.update(catalog_of(Path(folder)))
    print("go", flush=True)
    sys.stdin.readline()
    done = put(kind, Path(folder), keys, run=run, mode=mode)
    print("put" if done else "nothing to do", flush=True)


if __name__ == "__main__":
    main()
