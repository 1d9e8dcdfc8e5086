"""Puts a trained run behind a web page and a JSON interface: `python -m ser_jax.serve --model=runs/x`."""

from absl import flags

from ser_jax import cli
from ser_jax.errors import UserError
from ser_jax.web.limits import Limits

if __name__ == "__main__":
    MODEL = flags.DEFINE_string("model", "", "Run directory that main has written.")
    HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; there is no password.")
    PORT = flags.DEFINE_integer("port", 8000, "Port; 0: any that is free.")
    NAMES = flags.DEFINE_list("names", [], "Host names of a proxy in front of it.")
    MAX_MB = flags.DEFINE_integer("max_mb", Limits.max_mb, "Largest upload in MB.")
    QUEUE = flags.DEFINE_integer("queue", Limits.queue, "Most uploads at once; one more is refused with 429.")
    PER_MINUTE = flags.DEFINE_integer("per_minute", Limits.per_minute, "Most uploads and sessions of a client.")
    LIVE_SESSIONS = flags.DEFINE_integer("live_sessions", Limits.live_sessions, "Most live sessions at once.")


def main() -> int:
    """Serves until SIGTERM or Ctrl-C."""
    from ser_jax.web import server

    if not MODEL.value:
        raise UserError("--model is missing: name the run directory that python -m ser_jax.main has written")
    limits = Limits(MAX_MB.value, QUEUE.value, PER_MINUTE.value, LIVE_SESSIONS.value)
    server.serve(
        MODEL.value,
        limits,
        host=HOST.value,
        port=PORT.value,
        names=NAMES.value,
        ready=lambda url: print(f"ready: {url}  (Ctrl-C ends it)", flush=True),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
