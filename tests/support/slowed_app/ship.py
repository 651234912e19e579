from trimtab.ship import App, Image, Process

app = App(
    "slowed",
    image=Image(files=["shop.py"]),
    processes={"web": Process("python3 shop.py", port=8000, health="/healthz")},
    domains=["slowed.localhost"],
)
