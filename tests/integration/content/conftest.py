"""One store for all tests of images: what is fetched once from Debian and PyPI serves them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.content import ContentStore


@pytest.fixture(scope="session")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> ContentStore:
    return ContentStore(tmp_path_factory.mktemp("content"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small app's directory."""
    directory = tmp_path / "project"
    (directory / "shop").mkdir(parents=True)
    (directory / "shop" / "__init__.py").write_text("NAME = 'shop'\n")
    (directory / "shop" / "__main__.py").write_text("from shop import NAME\nprint('hello from', NAME)\n")
    (directory / "requirements.txt").write_text("psycopg[binary]==3.2.9\ngunicorn==23.0.0\n")
    (directory / ".git").mkdir()
    (directory / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return directory
