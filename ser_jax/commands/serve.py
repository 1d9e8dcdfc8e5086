"""Serves a trained run as a web page and a JSON interface.

ser-jax serve --model=runs/x
"""

import signal

from ser_jax.commands.command_line import EMBEDDER, ENROL, PREDICTOR, Flag, Options
from ser_jax.web.limits import Limits

REGULAR_END = signal.SIGTERM

FLAGS = (
    PREDICTOR,
    EMBEDDER,
    ENROL,
    Flag("host", "127.0.0.1", "Address to listen on; there is no password."),
    Flag("port", 8000, "Port; 0: any that is free."),
    Flag("names", [], "Host names of a proxy in front of it."),
    Flag("max_mb", Limits.max_mb, "Largest upload in MB."),
    Flag("queue", Limits.queue, "Most uploads at once; one more is refused with 429."),
    Flag("per_minute", Limits.per_minute, "Most uploads and sessions of a client."),
    Flag("live_sessions", Limits.live_sessions, "Most live sessions at once."),
    Flag("per_client", Limits.per_client, "Most uploads, and sessions, of a client at once."),
)


def main(options: Options) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    from ser_jax.web import server

    server.serve(
        str(options.model_folder),
        Limits(
            max_mb=options.max_mb,
            queue=options.queue,
            per_minute=options.per_minute,
            live_sessions=options.live_sessions,
            per_client=options.per_client,
        ),
        embedder=options.embedder,
        host=options.host,
        port=options.port,
        names=options.names,
        enrol=options.enrol,
        ready=lambda url: print(f"ready: {url}  (Ctrl-C ends it)", flush=True),
    )
