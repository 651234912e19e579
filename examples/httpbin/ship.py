from trimtab.ship import App, Image, Process

app = App(
    "httpbin",
    image=Image(requirements=["httpbin", "gunicorn"], files=[]),
    processes={
        "web": Process("python3 -m gunicorn -b 0.0.0.0:8000 -k gthread httpbin:app", port=8000, health="/status/200")
    },
    domains=["httpbin.localhost"],
)
