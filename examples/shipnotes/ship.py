"""Ship it with `trimtab up examples/shipnotes`; test it with `trimtab ci -C examples/shipnotes`; or do both by
`git push` (docs/pipelines.md)."""

from trimtab.ci import image, pipeline, publish, service, src, step, tests
from trimtab.ship import App, Image, Postgres, Process, Secret

app = App(
    "shipnotes",
    image=Image(requirements="requirements.txt", files=["shipnotes"]),
    processes={
        "web": Process(
            "python3 -m gunicorn --bind 0.0.0.0:8000 --workers 2 --threads 4 --keep-alive 75 --worker-tmp-dir /dev/shm shipnotes.web:app",
            port=8000,
            health="/healthz",
            scale=2,
        )
    },
    secrets={"SHIPNOTES_TOKEN": Secret.generated()},
    database=Postgres(),
    migrate="python3 -m shipnotes.migrate",
    domains=["shipnotes.localhost"],
)

packages = ["flask==3.1.3", "gunicorn==27.0.1", "psycopg[binary]==3.3.9", "psycopg-pool==3.3.3"]
python = image(debian=["python3"], python=[*packages, "pytest==8.4.2"])
db = service("trimtab.local/postgres:15", env={"POSTGRES_PASSWORD": "in-a-test-only"}, ready=":5432")


@step(timeout="5m")
def unit():
    return (
        python.workdir("/w")
        .add(src("shipnotes/**", "tests/**"))
        .with_service("db", db)
        .env(DATABASE_URL="postgresql://postgres:in-a-test-only@db/postgres", PYTHONPATH="/w")
        .run(tests.pytest("-q", "tests"), junit="report.xml")
    )


@step
def released():
    return image(debian=["python3"], python=packages).workdir("/app").user("1000").add(src("shipnotes/**"))


@pipeline
def ci(ship: bool = False):
    ok = unit()
    return ok.then(publish(released(), "trimtab.local/shipnotes")) if ship else ok
