"""Put uv into .uv/bin: the version and the hash of uv.lock, with nothing but Python's standard library.

Neither pip nor ensurepip is needed, which Debian's python3 comes without.
"""

import hashlib
import io
import os
import platform
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / ".uv" / "bin" / "uv"


def main() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    wheels = next(package["wheels"] for package in lock["package"] if package["name"] == "uv")
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    machine = f"_{platform.machine()}.whl"
    wheel = next((each for each in wheels if libc in each["url"] and each["url"].endswith(machine)), None)
    if wheel is None:
        sys.exit(
            f"There is no uv for {platform.machine()} with {libc}: install uv yourself, see https://docs.astral.sh/uv"
        )
    print(f"Getting uv from {wheel['url']}", flush=True)
    try:
        with urllib.request.urlopen(wheel["url"], timeout=60) as response:  # noqa: S310  # the lock has https only
            data = response.read()
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"uv could not be downloaded ({error}): connect this machine to the internet, or install uv yourself")
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != wheel["hash"]:
        sys.exit(
            "The uv that was downloaded is not the one of uv.lock: look at what stands between here and the internet"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        program = archive.read(name)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    partial = TARGET.with_suffix(".partial")
    partial.write_bytes(program)
    partial.chmod(0o755)
    os.replace(partial, TARGET)


if __name__ == "__main__":
    main()
