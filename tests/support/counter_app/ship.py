from trimtab.ship import App, Image, Postgres, Process

app = App(
    "counter",
    image=Image(
        requirements=["gunicorn==27.0.1", "psycopg[binary]==3.3.9", "psycopg-pool==3.3.3"], files=["counter.py"]
    ),
    processes={
        "web": Process(
            "python3 -m gunicorn -b 0.0.0.0:8000 -k gthread --threads 16 --keep-alive 75 --worker-tmp-dir /dev/shm counter:app",
            port=8000,
            health="/healthz",
            scale=2,
        )
    },
    database=Postgres(),
    migrate="python3 counter.py",
    domains=["counter.localhost"],
)
