"""Print the lines of Python by package, and the longest files."""

import io
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Lines that hold code: blank lines, comments and strings that stand alone are none."""
    lines: set[int] = set()
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        stands_alone = token.type == tokenize.STRING and before in NOT_CODE
        if token.type not in NOT_CODE and not stands_alone:
            lines.update(range(token.start[0], token.end[0] + 1))
        if token.type not in {tokenize.COMMENT, tokenize.NL}:
            before = token.type
    return len(lines)


def main() -> None:
    """Count what git knows of."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    folders: dict[str, list[tuple[int, int, str]]] = {}
    for name in sorted(listed):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8")
            folders.setdefault(name.split("/")[0], []).append((len(text.splitlines()), code_lines(text), name))
    print(f"{'package':<14}{'files':>6}{'lines':>8}{'code':>8}  longest")
    for folder, files in folders.items():
        longest, _, name = max(files)
        lines, code = sum(file[0] for file in files), sum(file[1] for file in files)
        print(f"{folder:<14}{len(files):>6}{lines:>8}{code:>8}  {name} ({longest})")
    product = [file for folder, files in folders.items() if folder not in {"tests", "deploy"} for file in files]
    if product:
        lines, code = sum(file[0] for file in product), sum(file[1] for file in product)
        print(f"{'product':<14}{len(product):>6}{lines:>8}{code:>8}  {max(product)[2]} ({max(product)[0]})")


if __name__ == "__main__":
    main()
