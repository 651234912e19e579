"""What `ship.py` and `ship.yaml` may say, and the line that a user reads when they say something else."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from trimtab.api import from_wire, to_wire
from trimtab.components.apps.declaration import BadDeclaration, load
from trimtab.components.apps.kinds import App

REPOSITORY = Path(__file__).parents[3]


def ship(directory: Path, text: str, name: str = "ship.py") -> Path:
    (directory / name).write_text(dedent(text).lstrip())
    return directory


def refusal(directory: Path, text: str, name: str = "ship.py") -> str:
    with pytest.raises(BadDeclaration) as caught:
        load(ship(directory, text, name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def declared(field: str) -> str:
    return f"""
        from trimtab.ship import App, Image, Postgres, Process, Secret
        web = Process("serve", port=80)
        app = App("shop", {field})
    """


@pytest.mark.parametrize("example", ["shipnotes", "httpbin"])
def test_the_examples_are_valid(example: str) -> None:
    app = load(REPOSITORY / "examples" / example)
    made = app.resource("default", "trimtab.local/x@sha256:0", "trimtab.local/postgres@sha256:1")
    assert from_wire(App, to_wire(made)) == made


def test_ten_lines_ship_an_app_from_pypi() -> None:
    lines = (REPOSITORY / "examples/httpbin/ship.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 10


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            "processes={}",
            'ship.py:3: processes: name at least one, such as {"web": Process("gunicorn app:app", port=8000)}',
        ),
        (
            'processes={"Web": web}',
            "ship.py:3: processes: 'Web' must be lower-case letters, digits and '-', 20 at most",
        ),
        ('processes={"web": "serve"}', "ship.py:3: processes.web: expected Process(...), got 'serve'"),
        ('processes={"web": Process("serve", port=80000)}', "ship.py:3: port: 80000 is not a port; write 1 to 65535"),
        ('processes={"web": Process("serve", port="80")}', "ship.py:3: port: expected a port number, got '80'"),
        (
            'processes={"web": Process("serve", port=80, health="ok")}',
            "ship.py:3: health: 'ok' is not a path; write \"/ok\"",
        ),
        (
            'processes={"web": Process("serve", health="/ok")}',
            "ship.py:3: health: a health path needs a port; add port=",
        ),
        (
            'processes={"web": Process("a && b")}',
            "ship.py:3: command: '&&' needs a shell, and none runs this; put it in a script of the image",
        ),
        ('processes={"web": Process("")}', "ship.py:3: command: is empty; write the program and its arguments"),
        (
            'processes={"web": Process("a", memory="lots")}',
            "memory: 'lots' is not a quantity; write for example \"256Mi\"",
        ),
        ('processes={"web": web}, env={"A": 1}', "ship.py:3: env.A: expected a text, got 1; quote it"),
        ('processes={"web": web}, domains="a.b"', 'ship.py:3: domains: expected a list, got a text; write ["a.b"]'),
        (
            'processes={"web": web}, domains=["https://a.b/"]',
            "'https://a.b/' is not a host name; write it in lower case, without https:// or a path",
        ),
        ('processes={"w": Process("a")}, domains=["a.b"]', "domains: no process has a port to send their requests to"),
        (
            'processes={"web": web}, database=Postgres("9")',
            "ship.py:3: database.version: '9' is not available; write 15",
        ),
        ('processes={"web": web}, secrets={"A": "b"}', "secrets.A: expected Secret.generated(), Secret.of(name, key)"),
        ('processes={"web": web}, imagee=1', "ship.py:3: App has no field 'imagee'; known are name, image, processes,"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, field: str, said: str) -> None:
    assert said in refusal(tmp_path, declared(field))


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "\n\napp = App(\n").startswith("ship.py:")


def test_exactly_one_app(tmp_path: Path) -> None:
    assert refusal(tmp_path, "x = 1") == "ship.py: must assign exactly one App to a variable; found none"


def test_no_declaration_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadDeclaration, match=r"has no ship\.py or ship\.yaml; write one"):
        load(tmp_path)


YAML = """
    name: shop
    image: {requirements: requirements.txt}
    processes:
      web: {command: serve --all, port: 8000, health: /ok, scale: 2}
    database: {storage: 2Gi}
    secrets:
      KEY: {generate: 40}
      TOKEN: {secretName: tokens, key: shop}
    migrate: migrate up
    domains: [shop.localhost]
"""


def test_yaml_says_the_same_as_python(tmp_path: Path) -> None:
    python = ship(
        tmp_path,
        """
        from trimtab.ship import App, Image, Postgres, Process, Secret
        app = App(
            "shop",
            image=Image(requirements="requirements.txt"),
            processes={"web": Process("serve --all", port=8000, health="/ok", scale=2)},
            database=Postgres(storage="2Gi"),
            secrets={"KEY": Secret.generated(40), "TOKEN": Secret.of("tokens", "shop")},
            migrate="migrate up",
            domains=["shop.localhost"],
        )
        """,
    )
    one = load(python)
    (tmp_path / "ship.py").unlink()
    other = load(ship(tmp_path, YAML, "ship.yaml"))
    assert one == other


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port: 8000", "port: eighty", "ship.yaml: processes.web.port: expected a port number, got 'eighty'"),
        ("port: 8000", "ports: 8000", "ship.yaml: processes.web.ports: unknown field; known are command, port"),
        ("name: shop", "title: shop", "ship.yaml: title: unknown field; known are name"),
        ("{generate: 40}", "forty", "ship.yaml: secrets.KEY: write {generate: LENGTH}, {env: VARIABLE} or"),
        ("name: shop", "name: [shop", "ship.yaml:"),
    ],
)
def test_a_mistake_in_yaml_names_its_path(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in refusal(tmp_path, YAML.replace(old, new), "ship.yaml")


def test_a_given_secret_must_be_set(tmp_path: Path) -> None:
    app = load(ship(tmp_path, declared('processes={"web": web}, secrets={"KEY": Secret.from_env("SHOP_KEY")}')))
    assert app.given_values({"SHOP_KEY": "x"}) == {"KEY": "x"}
    with pytest.raises(BadDeclaration, match="the environment variable SHOP_KEY is not set; set it and run again"):
        app.given_values({})
