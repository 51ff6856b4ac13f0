"""Make the Python of the protos in cluster/serve/protos again, in the tree or in another folder.

    python deploy/ci/protos.py [FOLDER]
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]


def generate(folder: Path) -> list[str]:
    """Write the generated files below a folder, at their places in the tree; returns these, sorted."""
    protos = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "cluster/serve/protos").rglob("*.proto"))
    common = str(files("grpc_tools") / "_proto")
    out = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{common}", *out, *protos]):
        raise SystemExit("protoc refused the protos")
    kinds = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    return sorted(proto.removesuffix(".proto") + kind for proto in protos for kind in kinds)


if __name__ == "__main__":
    for name in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(name)
