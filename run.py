"""Search, retrain and record: `python run.py algorithm=darts dataset=cifar10`.

Every number is in `conf/`; `python run.py --help` lists the groups, `-m` runs sweeps. The same
command continues an interrupted run and shows a finished one.
"""

import sys

from nasbench.configuration import main

if __name__ == "__main__":
    sys.exit(main())
