"""How often the 95% intervals of `evaluate` hold the truth: python benchmarks/coverage.py [--tables 500]

Twelve worlds (nbs/measure/28_coverage.ipynb), five hundred tables each, on one core in some ten minutes; writes results/coverage.csv"""
import argparse
from pathlib import Path

import pandas as pd

from retina_nb.measure import WORLDS, count_coverage

OUT = Path(__file__).resolve().parent/'results'/'coverage.csv'

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--tables', type=int, default=500)
    n, found = ap.parse_args().tables, []
    for world in WORLDS:
        found.append(count_coverage(world, n_tables=n))
        print(found[-1].round(3).drop(columns='world').to_string(index=False), world, sep='\n', flush=True)
    pd.concat(found).assign(tables=n).round(6).to_csv(OUT, index=False)

if __name__ == '__main__': main()
