"""The vendored modules are those of the npm packages, but for the paths in their imports."""

import hashlib
from pathlib import Path

import pytest

import ssd4rec.service

VENDOR = Path(ssd4rec.service.__file__).parent / "page" / "vendor"
PACKAGE_SHA256 = {  # of the files in the npm packages, which vendor/README.md names
    "htm.js": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
    "preact-hooks.js": "a6ee626f2d01570592dd569a792e3f050154aa02890eead8c223fa3ed5aa3d5a",
    "preact.js": "c30e721ebfdc6e2ad4c18c14d2dfb82667829c8aec27de1207774e3fc16858a8",
    "signals-core.js": "45c263e519aaf3b6ef9b0a12a8b63dc06cdfcbd35bffc8203ec68c6117e6fcd7",
    "signals.js": "89074d9db96b7f8e1be47f93913355b8cef829fb939f18a3a3ee320854ceebf8",
}
PATHS = {"./preact-hooks.js": "preact/hooks", "./signals-core.js": "@preact/signals-core", "./preact.js": "preact"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_list_of_hashes_is_complete_and_true():
    lines = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {each.name for each in VENDOR.iterdir()} - {"SHA256SUMS", "README.md"}
    for digest, name in lines:
        assert sha256((VENDOR / name).read_bytes()) == digest, name


@pytest.mark.parametrize("name", sorted(PACKAGE_SHA256))
def test_modules_differ_from_the_packages_only_in_the_paths_of_imports(name: str):
    text = (VENDOR / name).read_text()
    for path, package in PATHS.items():
        text = text.replace(f'from"{path}"', f'from"{package}"')
    assert sha256(text.encode()) == PACKAGE_SHA256[name]


def test_no_module_is_left_out():
    assert {each.name for each in VENDOR.glob("*.js")} == set(PACKAGE_SHA256)


def test_sources_need_nothing_that_the_security_policy_forbids():
    for source in [*VENDOR.parent.rglob("*.js"), *VENDOR.parent.rglob("*.html"), *VENDOR.parent.rglob("*.css")]:
        text = source.read_text()
        for forbidden in ("eval(", "new Function", "innerHTML =", " style=", "onclick=", "@import", "url("):
            if source.parent == VENDOR:
                assert forbidden not in text or forbidden == "innerHTML =", (source.name, forbidden)
            else:
                assert forbidden not in text, (source.name, forbidden)
