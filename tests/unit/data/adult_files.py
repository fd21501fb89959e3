"""A small folder in the published form of the Adult census."""

from pathlib import Path

ROW = "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, "
ROW += "Male, 2174, 0, 40, United-States, <=50K"
COUNTRIES = ("Cuba", "India", "Peru", "?")


def people(count: int, dot: str = "") -> list[str]:
    """Rows that differ in age, country, both labels and nothing else."""
    return [
        ROW.replace("39,", f"{20 + n % 9},", 1)
        .replace("United-States", COUNTRIES[n % 4])
        .replace("Never-married", "Never-married" if n % 3 else "Divorced")
        .replace("<=50K", (">50K" if n % 5 == 0 else "<=50K") + dot)
        for n in range(count)
    ]


def write_adult(folder: Path, learned: list[str], test: list[str]) -> Path:
    """Write both files; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "adult.data").write_text("\n".join(learned) + "\n\n")
    (folder / "adult.test").write_text("\n".join(["|1x3 Cross validator", *test]) + "\n")
    return folder
