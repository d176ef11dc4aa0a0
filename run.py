"""Search, retrain and record: `python run.py algorithm=darts dataset=cifar10`.

Every number is in `conf/`; `python run.py --help` lists the groups, `-m` runs sweeps. The same
command continues an interrupted run and shows a finished one.
"""

import sys

if __name__ == "__main__":
    try:
        from nasbench.configuration import main  # seconds: Ctrl-C may come while it loads

        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted before anything began", file=sys.stderr)
        sys.exit(130)
