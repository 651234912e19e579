"""Ship it with `trimtab up examples/shipnotes`."""

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
