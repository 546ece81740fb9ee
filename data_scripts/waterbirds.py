"""Local copies of CUB-200-2011 and Places365 -> Waterbirds as released (about 5 minutes of one core).

    python data_scripts/waterbirds.py CUB PLACES OUT                 # 95 % of the birds on their places
    python data_scripts/waterbirds.py CUB PLACES OUT --black         # birds on black; PLACES is not read
    python data_scripts/waterbirds.py CUB PLACES OUT --whole-words   # a towhee is no tern

CUB is the folder ``CUB_200_2011`` with the archive ``segmentations`` unpacked in it. PLACES holds
bamboo_forest, forest/broadleaf, ocean and lake/natural, as ``data_large`` of Places365 does. OUT gets
11,788 JPEG images and ``metadata.csv``. To expect in the test set, whatever the seed: 2255 (landbird, land),
2255 (landbird, water), 642 (waterbird, land), 642 (waterbird, water). In training about 3498, 184, 56, 1057
and in validation about 467, 466, 133, 133: the draw of the validation images moves these by a few.
"""

import argparse
import sys
from pathlib import Path

from nuisance.data.waterbirds import build_waterbirds
from nuisance.errors import InputError


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("cub", "places", "out"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--seed", type=int, default=0, help="decides splits, places and backgrounds")
    parser.add_argument("--whole-words", action="store_true", help="count no landbird among the terns")
    parser.add_argument("--black", action="store_true", help="no backgrounds; splits and places as with them")
    given = parser.parse_args(arguments)
    places = None if given.black else given.places
    found = build_waterbirds(given.cub, places, given.out, seed=given.seed, whole_words=given.whole_words)
    print(f"{given.out}: {found}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
